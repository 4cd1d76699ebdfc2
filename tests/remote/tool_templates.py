"""Chat templates that write calls of tools in the ways that models use, and one that leaves tools out."""

import copy

from pcw_models import byte_level


HEAD = """{%- if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|end|>{% endif %}{%- for message in messages %}<|{{ message.role }}|>"""
FOOT = "<|end|>{%- endfor %}{%- if add_generation_prompt %}<|assistant|>{% endif %}"
PLAIN = "{%- if not message.tool_calls %}{{ message.content }}{% endif %}"


def _each(body, before="", after="", between=""):
    return (
        HEAD + PLAIN + "{%- if message.tool_calls %}" + before + "{%- for tool_call in message.tool_calls %}"
        "{%- set call = tool_call.function %}" + body + "{%- if not loop.last %}" + between + "{% endif %}{%- endfor %}"
        + after + "{%- endif %}" + FOOT
    )  # fmt: skip


TEMPLATES = {
    "hermes": _each("""{{ '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}{{ call.arguments | tojson }}{{ '}\n</tool_call>' }}""", between="{{ '\n' }}"),
    "llama": _each("""{%- if message.tool_calls | length > 1 %}{{ raise_exception("one call at a time") }}{% endif %}{{ '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}' }}"""),
    "mistral": _each("""{{ '{"name": "' + call.name + '", "arguments": ' }}{{ call.arguments | tojson }}{{ ', "id": "' + tool_call.id + '"}' }}""", "[TOOL_CALLS] [", "]", ", "),
    "mistral_args": _each("""{{ '[TOOL_CALLS]' + call.name + '[ARGS]' }}{{ call.arguments | tojson }}"""),
    "text_arguments": _each("""{{ '<|tool_call|>' + call.name + '<|sep|>' + call.arguments + '<|tool_end|>' }}"""),
    "functiongemma": _each("""{{ '<start_function_call>call:' + call.name + '{' }}{%- for key, value in call.arguments | dictsort %}{{ key }}:{% if value is string %}<escape>{{ value }}<escape>{% elif value is boolean %}{{ 'true' if value else 'false' }}{% else %}{{ value }}{% endif %}{% if not loop.last %},{% endif %}{%- endfor %}{{ '}<end_function_call>' }}"""),
    "pythonic": _each("""{{ call.name + '(' }}{%- for key, value in call.arguments.items() %}{{ key }}={% if value is string %}{{ value | tojson }}{% else %}{{ value }}{% endif %}{% if not loop.last %}, {% endif %}{%- endfor %}{{ ')' }}""", "<|tool_call_start|>[", "]<|tool_call_end|>", ", "),
    "tags": _each("""{{ '<tool_call>\n<function=' + call.name + '>' }}{%- for key, value in call.arguments.items() %}{{ '\n<parameter=' + key + '>\n' }}{{ value if value is string else value | tojson }}{{ '\n</parameter>' }}{%- endfor %}{{ '\n</function>\n</tool_call>' }}"""),
    "without": "{%- for message in messages %}<|{{ message.role }}|>{{ message.content }}" + FOOT,
}  # fmt: skip
CONTROL = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
SPECIAL = {
    "mistral": ["[TOOL_CALLS]"],
    "mistral_args": ["[TOOL_CALLS]", "[ARGS]"],
    "text_arguments": ["<|tool_call|>", "<|sep|>", "<|tool_end|>"],
    "functiongemma": ["<start_function_call>", "<end_function_call>", "<escape>"],
    "pythonic": ["<|tool_call_start|>", "<|tool_call_end|>"],
}


def with_template(name):
    """A small tokenizer with the control tokens of a template."""
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL + SPECIAL.get(name, [])})
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer
