"""Hand-made rows in the layouts of public data sets, and the right result for each.

`right` is what the first row becomes: "role: text" of each message, "+" before an answer that is learned, a
call as name(arguments as JSON). Of a prompt and its completion they are the user's and the assistant's. `advice`
is what the refusal of automatic recognition must propose; `refused` is part of the message where no setting helps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
SYSTEM = "Be short."
WEATHER = {"name": "weather", "description": "w", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}}}}  # fmt: skip
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}


@dataclass(frozen=True)
class Layout:
    """One layout: a row, the options to read it, and the expected result."""

    row: Row
    right: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
    refused: str = ""
    tools: tuple[str, ...] = ()


def turns(*spoken: tuple[str, str], role: str = "role", content: str = "content") -> list[Row]:
    """Return turns from pairs of (role, text)."""
    return [{role: who, content: text} for who, text in spoken]


def shared(*spoken: tuple[str, str]) -> list[Row]:
    """Return turns with ShareGPT's keys."""
    return turns(*spoken, role="from", content="value")


ASK = ("user: Name a river.", "+assistant: The Danube.")
CHAT = turns(("user", "Name a river."), ("assistant", "The Danube."))
BAD = turns(("user", "Name a river."), ("assistant", "Sahara."))
CALLED = ("user: Weather in Oslo?", '+assistant: weather({"city": "Oslo"})')
TOLD = (*CALLED, "tool: sunny", "+assistant: It is sunny.")

LAYOUTS: dict[str, Layout] = {
    "alpaca": Layout(
        {"instruction": "Name a river.", "input": "", "output": "The Danube."}, ASK
    ),
    "alpaca with text": Layout(
        {"instruction": "Name a river.", "input": "", "output": "The Danube.", "text": "all of it"},
        advice="data.format=instruction",
    ),
    "alpaca with system and history": Layout(
        {"instruction": "And its capital?", "input": "", "output": "Vienna.", "system": SYSTEM,
         "history": [["Name a country.", "Austria."]]},
        (f"system: {SYSTEM}", "user: Name a country.", "assistant: Austria.", "user: And its capital?",
         "+assistant: Vienna."),
    ),
    "sharegpt": Layout(
        {"id": "a", "conversations": shared(("human", "Name a river."), ("gpt", "The Danube."))}, ASK
    ),
    "sharegpt with other speakers": Layout(
        {"conversations": shared(("user", "Name a river."), ("chatgpt", "The Danube."))}, ASK
    ),
    "sharegpt with a system column": Layout(
        {"system": SYSTEM, "conversations": shared(("human", "Name a river."), ("gpt", "The Danube."))},
        (f"system: {SYSTEM}", *ASK),
    ),
    "sharegpt with tools": Layout(
        {"conversations": shared(("human", "Weather in Oslo?"), ("function_call", json.dumps(CALL)),
                                 ("observation", "sunny"), ("gpt", "It is sunny.")),
         "tools": json.dumps([WEATHER])},
        TOLD, tools=("weather",),
    ),
    "openai": Layout({"messages": CHAT}, ASK),
    "openai with tools": Layout(
        {"messages": [*turns(("user", "Weather in Oslo?")),
                      {"role": "assistant", "content": None, "tool_calls": [
                          {"id": "c1", "type": "function",
                           "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}]},
                      {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
                      {"role": "assistant", "content": "It is sunny."}],
         "tools": [{"type": "function", "function": WEATHER}]},
        TOLD, tools=("weather",),
    ),
    "openai with functions": Layout(
        {"messages": [*turns(("user", "Weather in Oslo?")),
                      {"role": "assistant", "content": None,
                       "function_call": {**CALL, "arguments": json.dumps(CALL["arguments"])}},
                      {"role": "function", "name": "weather", "content": "sunny"},
                      {"role": "assistant", "content": "It is sunny."}],
         "functions": [WEATHER]},
        TOLD, tools=("weather",),
    ),
    "openai with weights": Layout(
        {"messages": [*turns(("user", "Name a river.")),
                      {"role": "assistant", "content": "Sahara.", "weight": 0},
                      *turns(("user", "That is a desert.")),
                      {"role": "assistant", "content": "The Danube.", "weight": 1}]},
        ("user: Name a river.", "assistant: Sahara.", "user: That is a desert.", ASK[1]),
    ),
    "ms-swift with loss and tool roles": Layout(
        {"messages": [*turns(("user", "Weather in Oslo?"), ("tool_call", json.dumps(CALL)),
                             ("tool_response", "sunny")),
                      {"role": "assistant", "content": "It is sunny.", "loss": True}],
         "tools": json.dumps([WEATHER])},
        TOLD, tools=("weather",),
    ),
    "ultrachat 200k, no robots": Layout(
        {"prompt": "Name a river.", "prompt_id": "ab12", "messages": CHAT, "category": "Open QA"}, ASK
    ),
    "ultrachat, as first published": Layout(
        {"id": "0", "data": ["Name a river.", "The Danube."]}, ASK,
        {"columns": {"messages": "data"}}, advice="data.columns.messages=data",
    ),
    "ultrafeedback binarized": Layout(
        {"prompt": "Name a river.", "prompt_id": "a", "chosen": CHAT, "rejected": BAD, "messages": CHAT,
         "score_chosen": 8.0, "score_rejected": 2.0},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
        {"format": "preference"}, advice="data.format=preference",
    ),
    "hh-rlhf": Layout(
        {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Name a river.\n\nAssistant: The Danube.",
         "rejected": "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Name a river.\n\nAssistant: Sahara."},
        ("user: Hello", "assistant: Hi", ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "trl: implicit prompt": Layout(
        {"chosen": CHAT, "rejected": BAD},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "trl: prompt and answers as turns": Layout(
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": BAD[1:]},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "prompt and whole conversations": Layout(
        {"prompt": CHAT[:1], "chosen": CHAT, "rejected": BAD},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "prompt and texts that repeat it": Layout(
        {"prompt": "Name a river. ", "chosen": "Name a river. The Danube.",
         "rejected": "Name a river. Sahara."},
        ("user: Name a river. ", "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "kto": Layout(
        {"prompt": "Name a river.", "completion": "The Danube.", "label": True}, ASK
    ),
    "kto, a bad answer": Layout(
        {"prompt": "Name a river.", "completion": "Sahara.", "label": False}, refused="not to learn"
    ),
    "kto as turns, a bad answer": Layout(
        {"messages": BAD, "kto_tag": False}, refused="not to learn"
    ),
    "dolly": Layout(
        {"instruction": "Where is Oslo?", "context": "Oslo is a city.", "response": "There.",
         "category": "open_qa"},
        ("user: Where is Oslo?\n\nOslo is a city.", "+assistant: There."),
        {"format": "instruction", "columns": {"input": "context", "output": "response"}},
        advice="data.format=instruction data.columns.input=context data.columns.output=response",
    ),
    "openassistant, one turn a row": Layout(
        {"message_id": "a", "parent_id": None, "text": "Name a river.", "role": "prompter", "lang": "en"},
        refused="one turn of a conversation",
    ),
    "slimorca": Layout(
        {"conversations": [{"from": "system", "value": SYSTEM, "weight": None},
                           {"from": "human", "value": "Name a river.", "weight": 0.0},
                           {"from": "gpt", "value": "The Danube.", "weight": 1.0}]},
        (f"system: {SYSTEM}", *ASK),
    ),
    "openorca": Layout(
        {"id": "a", "system_prompt": SYSTEM, "question": "Name a river.", "response": "The Danube."},
        (f"system: {SYSTEM}", *ASK),
        {"format": "instruction", "columns": {
            "instruction": "question", "output": "response", "system": "system_prompt"}},
        advice="data.columns.instruction=question data.columns.output=response "
        "data.columns.system=system_prompt",
    ),
    "openhermes": Layout(
        {"conversations": shared(("human", "Name a river."), ("gpt", "The Danube.")),
         "source": "x", "system_prompt": None, "custom_instruction": None},
        ASK,
    ),
    "glaive function calling v2": Layout(
        {"system": "SYSTEM: You may use functions.", "chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"},
        refused="no format is recognised",
    ),
    "xlam": Layout(
        {"id": 0, "query": "Weather in Oslo?", "answers": json.dumps([CALL]), "tools": json.dumps(
            [{"name": "weather", "description": "w", "parameters": {"city": {"type": "str"}}}])},
        CALLED,
        {"format": "instruction", "columns": {"instruction": "query", "output": "answers"}},
        advice="data.columns.instruction=query data.columns.output=answers",
        tools=("weather",),
    ),
    "hermes function calling": Layout(
        {"conversations": shared(
            ("system", f"Use <tools> {json.dumps([WEATHER])} </tools>"), ("human", "Weather in Oslo?"),
            ("gpt", '<tool_call>\n{"name": "weather"}\n</tool_call>'), ("tool", "sunny")),
         "tools": json.dumps([WEATHER]), "category": "x"},
        (f"system: Use <tools> {json.dumps([WEATHER])} </tools>", "user: Weather in Oslo?",
         '+assistant: <tool_call>\n{"name": "weather"}\n</tool_call>', "tool: sunny"),
    ),
    "toolace": Layout(
        {"system": "You may call [weather].", "conversations": shared(
            ("user", "Weather in Oslo?"), ("assistant", "[weather(city='Oslo')]"), ("tool", "sunny"))},
        ("system: You may call [weather].", "user: Weather in Oslo?", "+assistant: [weather(city='Oslo')]",
         "tool: sunny"),
    ),
    "metamath": Layout(
        {"query": "1+1?", "response": "2", "type": "a", "original_question": "1+1?"},
        ("user: 1+1?", "+assistant: 2"),
        {"format": "instruction", "columns": {"instruction": "query", "output": "response"}},
        advice="data.columns.instruction=query data.columns.output=response",
    ),
    "gsm8k": Layout(
        {"question": "1+1?", "answer": "2"}, ("user: 1+1?", "+assistant: 2"),
        {"format": "instruction", "columns": {"instruction": "question", "output": "answer"}},
        advice="data.columns.instruction=question data.columns.output=answer",
    ),
    "squad-like": Layout(
        {"question": "Where?", "context": "Oslo is a city.", "answer": "There."},
        ("user: Where?\n\nOslo is a city.", "+assistant: There."),
        {"format": "instruction", "columns": {
            "instruction": "question", "input": "context", "output": "answer"}},
        advice="data.columns.instruction=question data.columns.input=context data.columns.output=answer",
    ),
    "flan, aya": Layout(
        {"inputs": "1+1?", "targets": "2"}, ("user: 1+1?", "+assistant: 2"),
        {"format": "prompt", "columns": {"prompt": "inputs", "completion": "targets"}},
        advice="data.columns.instruction=inputs data.columns.output=targets",
    ),
    "lima": Layout(
        {"conversations": ["Name a river.", "The Danube.", "One more.", "The Elbe."], "source": "x"},
        (*ASK, "user: One more.", "+assistant: The Elbe."),
    ),
    "capybara": Layout(
        {"source": "x", "conversation": [{"input": "Name a river.", "output": "The Danube."}]}, ASK,
        {"format": "chat", "columns": {"messages": "conversation"}},
        advice="data.format=chat data.columns.messages=conversation",
    ),
    "orca dpo": Layout(
        {"system": SYSTEM, "question": "Name a river.", "chosen": "The Danube.", "rejected": "Sahara."},
        (f"system: {SYSTEM}", ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "argilla: distilabel intel orca dpo": Layout(
        {"system": "", "input": "Name a river.", "chosen": "The Danube.", "rejected": "Sahara.",
         "generations": ["The Danube.", "Sahara."], "rating": [9.0, 2.0]},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
    ),
    "argilla: ultrafeedback": Layout(
        {"instruction": "Name a river.", "chosen_response": "The Danube.", "rejected_response": "Sahara."},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
        {"format": "preference", "columns": {
            "prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"}},
        advice="data.format=preference data.columns.prompt=instruction "
        "data.columns.chosen=chosen_response data.columns.rejected=rejected_response",
    ),
    "llama-factory: sharegpt preference": Layout(
        {"conversations": shared(("human", "Name a river.")), "chosen": {"from": "gpt", "value": "The Danube."},
         "rejected": {"from": "gpt", "value": "Sahara."}},
        (ASK[0], "+assistant: The Danube.", "-assistant: Sahara."),
        {"format": "preference"}, advice="data.format=preference",
    ),
    "distilabel, magpie": Layout(
        {"instruction": "Name a river.", "generation": "The Danube.", "model_name": "x"}, ASK,
        {"format": "instruction", "columns": {"output": "generation"}},
        advice="data.format=instruction data.columns.output=generation",
    ),
    "nectar": Layout(
        {"prompt": "\n\nHuman: Name a river.\n\nAssistant: ", "answers": [
            {"answer": "The Danube.", "rank": 1.0}, {"answer": "Sahara.", "rank": 2.0}]},
        refused="no format is recognised",
    ),
    "trl: prompt and completion": Layout({"prompt": "Name a river.", "completion": "The Danube."}, ASK),
    "trl: prompt and completion as turns": Layout(
        {"prompt": turns(("user", "Hi"), ("assistant", "Hello"), ("user", "Name a river.")),
         "completion": turns(("assistant", "The Danube."))},
        ("user: Hi", "assistant: Hello", *ASK),
    ),
    "trl: stepwise supervision": Layout(
        {"prompt": "1+1?", "completions": ["Add.", "3"], "labels": [True, False]},
        refused="no format is recognised",
    ),
    "trl: prompts alone": Layout({"prompt": "Name a river."}, refused="no format is recognised"),
    "trl: language modeling": Layout({"text": "The Danube is long."}, ("+text: The Danube is long.",)),
    "anthropic messages with a tool": Layout(
        {"messages": [*turns(("user", "Weather in Oslo?")), {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}}]}]},
        refused="a part that is not text",
    ),
    "thoughts beside the content": Layout(
        {"messages": [*turns(("user", "1+1?")),
                      {"role": "assistant", "content": [{"type": "thinking", "thinking": "Add."},
                                                        {"type": "text", "text": "2"}]}]},
        ("user: 1+1?", "+assistant: <Add.> 2"),
    ),
}  # fmt: skip
