"""Conversations of any dialect as canonical messages.

A message is a mapping of

    role               system, developer, user, assistant or tool
    content            text; "" where the data have null beside a tool call
    reasoning_content  text of the thinking, where the turn has any
    tool_calls         [{"type": "function", "id"?, "function": {"name", "arguments": mapping}}]
    tool_call_id, name where the turn has them
    learn              False where the data exclude this answer from learning

and of all other keys of the turn, which a chat template may read. Tools are a list of
{"type": "function", "function": {"name", ...}}.
"""
