"""The Hub folder behind `model.generate(..., custom_generate=folder)` with experts."""

from pathlib import Path

from .. import hub
from ..remote.generation_mrkl import CUSTOM_GENERATE, REQUIREMENTS


README = """---
library_name: transformers
license: apache-2.0
tags:
- custom_generate
---

# Calls of exact experts while generating

The model writes `<call>name({"argument": value})</call>`; decoding pauses, the expert runs, and its answer follows as
`<result>...</result>` in the same sequence ([MRKL, Karpas et al. 2022](https://arxiv.org/abs/2205.00445)). Inside a
call a grammar made from the experts' JSON schemas allows valid calls only. No training and no other model code.

## Base model

Any causal language model of transformers that has learnt, or is shown in its prompt, to write such calls.

## Additional arguments

- `experts`: functions with type hints and a Google docstring, `Expert`s, (schema, callable), smolagents tools.
- `tokenizer`: default: that of the model's folder. `trace`: a list that gets every call.
- `max_calls` (8), `seconds_per_call` (2), `max_call_tokens` (128).
- `call_tokens`, `result_tokens`: other delimiters, plain text or tokens of the tokenizer.

All of `generate`'s own arguments but beams and assisted decoding work as ever. Without a call, the output is that of
`generate`, token by token. What an expert returns is data: it cannot start a call.

## Example

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

def length(text: str) -> int:
    \"\"\"
    Number of characters of a text.

    Args:
        text: The text
    \"\"\"
    return len(text)

name = "Qwen/Qwen3-0.6B"
model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
prompt = 'Q: how long is "abc"? A: <call>length({"text": "abc"})</call><result>3</result> 3\\nQ: how long is "elm"? A:'
calls = []
output = model.generate(
    **tokenizer(prompt, return_tensors="pt"), experts=[length], tokenizer=tokenizer, trace=calls, max_new_tokens=64,
    custom_generate="<this repository>", trust_remote_code=True,
)
print(tokenizer.decode(output[0]), calls)
```
"""


def write_custom_generate(folder: str | Path) -> Path:
    """Write `custom_generate/` (code and requirements) and a README to `folder`, which may hold a model already.

    In a folder that holds a model, `from_pretrained(..., trust_remote_code=True)` makes this function the model's
    `generate`; a README that is there is kept.
    """
    return hub.write_custom_generate(folder, "generation_mrkl", CUSTOM_GENERATE, REQUIREMENTS, README)
