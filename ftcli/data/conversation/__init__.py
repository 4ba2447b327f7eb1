"""Conversations of any dialect as canonical messages.

A message is a mapping of

    role               system, developer, user, assistant or tool
    content            text; "" where the data have null beside a tool call
    reasoning_content  text, where the turn has some
    tool_calls         [{"type": "function", "id"?, "function": {"name", "arguments": mapping}}]
    tool_call_id, name where the turn has them
    learn              False: the data say that this answer is not learned

and of whatever other keys the turn has, which a chat template may read. Tools are a list of
{"type": "function", "function": {"name", ...}}.
"""
