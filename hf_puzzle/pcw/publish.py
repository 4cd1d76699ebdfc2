"""The Hub folder behind `model.generate(..., custom_generate=folder)`."""

from pathlib import Path

from .. import hub


GENERATE = '''"""Parallel Context Windows (arXiv 2212.10947) for `model.generate(..., custom_generate=...)`."""

from .generation_pcw import generate


__all__ = ["generate"]
'''
REQUIREMENTS = "transformers>=5.23\n"
README = """---
library_name: transformers
license: apache-2.0
tags:
- custom_generate
---

# Parallel Context Windows

Reads any number of contexts side by side, each from the first position on, and continues the task after all of them
([PCW, Ratner et al. 2023](https://arxiv.org/abs/2212.10947)). No training and no other model code.

## Base model

Any decoder of transformers with a key-value cache: full attention, sliding windows (Mistral, Gemma 2/3, gpt-oss) and
ALiBi (Bloom, MPT, Falcon). Recurrent, chunked and encoder-decoder models are refused before any compute.

## Additional arguments

- `contexts`: texts, or lists of token ids; every one must fit into the model's positions together with the task.
- `prefix`: text or ids read before every context and kept once; default: BOS, where the tokenizer adds one.
- `tokenizer`: for texts; default: that of the model's folder.
- `mode`: `pcw`, `ensemble`, `nbce` or `single`; `alignment`: `left` or `right`.
- `attention_temperature`, `self_weight`, `top_k_windows`, `weights`, `beta`: off by default.

All of `generate`'s own arguments but assisted decoding, given caches and guidance work as ever. Output: as `generate`'s.

## Example

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "Qwen/Qwen3-0.6B"
model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
question = tokenizer("\\n\\nQuestion: which of the two rivers is longer?\\nAnswer:", return_tensors="pt")
contexts = ["The Rhine is 1,230 km long.", "The Elbe is 1,094 km long."]
output = model.generate(**question, contexts=contexts, custom_generate="<this repository>", trust_remote_code=True)
print(tokenizer.decode(output[0]))
```
"""


def write_custom_generate(folder: str | Path) -> Path:
    """Write `custom_generate/` (code and requirements) and a README to `folder`, which may hold a model already.

    In a folder that holds a model, `from_pretrained(..., trust_remote_code=True)` makes this function the model's
    `generate`; a README that is there is kept.
    """
    return hub.write_custom_generate(folder, "generation_pcw", GENERATE, REQUIREMENTS, README)
