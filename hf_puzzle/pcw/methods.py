"""Ways to classify the same texts after the same shots: windows in their modes, plain prompts, and no language model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..progress import bar
from ..remote.cache_pcw import EncodedWindows
from ..remote.generation_pcw import check_model, encode_windows, score_labels
from ..remote.pipeline_pcw import CONTENT_FREE
from ..remote.scoring_pcw import Piece, Reader, Trie, score_modes
from ..remote.windows_pcw import Demonstration, Labels, Layout, Template, context_size, lay_out_demonstrations
from .baselines import BASELINES, EMBEDDED, Encoder, by_ngrams
from .baselines import scores as baseline_scores
from .recipe import ProtocolConfig


# plain prompts: all shots in one window; the most similar shots alone
PROMPTS = ("long_prompt", "similar")
SIMILAR_WINDOWS = "similar_windows"  # windows, then the most similar shots
SIMPLER = (*BASELINES, *EMBEDDED, *PROMPTS)
CALIBRATED = ", calibrated"
CALIBRATING = 8


def names_of(protocol: ProtocolConfig, num_windows: int) -> tuple[str, ...]:
    """Names of the rows of one draw and one number of windows, in their order.

    Similar shots, which cost most, are chosen from the demonstrations of the most windows only: few are no choice.
    """
    chosen = num_windows == max(protocol.num_windows)
    baselines = [name for name in protocol.baselines if chosen or name not in ("similar", SIMILAR_WINDOWS)]
    names = (*protocol.modes, *baselines)
    read = [name for name in names if name not in (*BASELINES, *EMBEDDED)]
    return (*names, *(name + CALIBRATED for name in read if protocol.calibrate == "both"))


def is_simpler(name: str) -> bool:
    """Whether a row needs no parallel windows."""
    return name.removesuffix(CALIBRATED) in SIMPLER


class Dealt(NamedTuple):
    """Demonstrations, and the windows that they were dealt to."""

    shots: list[Demonstration]
    layout: Layout


@dataclass
class Case:
    """One draw at one number of windows.

    Attributes:
        labels: of all classes; template: of the texts.
        dealt: the shots, in windows; texts: what is classified.
        encoder: of the baselines on embeddings, and of similarity.
    """

    model: torch.nn.Module
    tokenizer: object
    template: Template
    labels: Labels
    dealt: Dealt
    texts: Sequence[tuple[str, ...]]
    protocol: ProtocolConfig
    encoder: Encoder | None = None
    _encoded: EncodedWindows | None = None

    def scores(self, wanted: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """(row, (texts, labels) scores whose softmax are probabilities) for the wanted rows of `names_of`."""
        left = {name.removesuffix(CALIBRATED): None for name in wanted}
        modes = [mode for mode in self.protocol.modes if mode in left]
        if modes:
            yield from self._rows(wanted, self._read(self.dealt.layout, self.encoded, modes))
        for name in left:
            if name == "long_prompt":
                yield from self._rows(wanted, {name: self._long_prompt()})
            elif name in ("similar", SIMILAR_WINDOWS):
                yield from self._rows(wanted, {name: self._similar(windows=name == SIMILAR_WINDOWS)})
            elif name not in modes:
                yield name, self._without_model(name)

    def _rows(self, wanted, read: dict[str, tuple]) -> Iterator[tuple[str, torch.Tensor]]:
        """As it is, or calibrated, or both, as far as wanted."""
        for name, (scores, prior) in read.items():
            plain = scores if self.protocol.calibrate is not True else scores - prior
            for row, values in ((name, plain), (name + CALIBRATED, scores - prior if prior is not None else None)):
                if row in wanted:
                    yield row, values

    @property
    def encoded(self) -> EncodedWindows:
        if self._encoded is None:
            self._encoded = self._encode(self.dealt.layout)
        return self._encoded

    def _encode(self, layout: Layout) -> EncodedWindows:
        return encode_windows(self.model, layout.windows, layout.prefix, self.protocol.alignment)

    # -- with the model

    def _content_free(self) -> list[tuple[str, ...]]:
        return [(text,) * len(self.template.fields) for text in CONTENT_FREE] if self.protocol.calibrate else []

    def _task(self, layout: Layout, inputs: tuple[str, ...]) -> tuple[int, ...]:
        return layout.task(self.template.separator + self.template.task(inputs))

    def _read(self, layout: Layout, encoded: EncodedWindows, modes: Sequence[str]) -> dict[str, tuple]:
        """Per mode log-probabilities (texts, labels), and the log of their mean (labels,) after content-free texts."""
        protocol = self.protocol
        empty = self._content_free()
        tasks = [self._task(layout, inputs) for inputs in (*self.texts, *empty)]
        options = {"temperature": protocol.attention_temperature}
        parts: list[dict[str, torch.Tensor]] = []
        for start in bar(range(0, len(tasks), protocol.batch_size), desc="texts"):
            chunk = tasks[start : start + protocol.batch_size]
            if protocol.scores == "trie":
                parts.append(score_modes(self.model, encoded, chunk, self.labels.tokens, modes, **options))
                continue
            options["scores"] = protocol.scores
            parts.append(
                {m: score_labels(self.model, encoded, chunk, self.labels.tokens, mode=m, **options) for m in modes}
            )
        found = {}
        for mode in modes:
            scores = torch.cat([part[mode] for part in parts]).log_softmax(-1)
            count = len(self.texts)
            found[mode] = scores[:count], scores[count:].exp().mean(0).log() if empty else None
        return found

    def _long_prompt(self) -> tuple:
        """All shots in one window, as long as the model takes: the plain prompt, read once."""
        shots, layout = self.dealt
        whole = lay_out_demonstrations(
            self.tokenizer, shots, self.labels.names, self.template, context_size(self.model.config), num_windows=1,
            task_tokens=layout.context - layout.room, tokenization=self.protocol.tokenization,
        )  # fmt: skip
        return self._read(whole, self._encode(whole), ["pcw"])["pcw"]

    @torch.no_grad()
    def _similar(self, windows: bool) -> tuple:
        """Each text after the shots most similar to it, the most similar last; behind the windows, or after nothing.

        Calibrated by content-free texts after the shots of `CALIBRATING` texts: the labels that a text's own shots have
        are evidence, not a bias.
        """
        (shots, layout), template = self.dealt, self.template
        context = self.encoded.context(None if windows else (), self.protocol.attention_temperature)
        known, asked = (self.encoder or by_ngrams)(
            [" ".join(each.inputs) for each in shots], [" ".join(inputs) for inputs in self.texts]
        )
        nearest = (asked @ known.T).topk(min(self.protocol.similar_shots, len(shots)), dim=1).indices.flip(1)
        reader, trie = Reader(self.model, check_model(self.model)), Trie(self.labels.tokens)
        scores, priors = [], []
        for inputs, chosen in zip(bar(self.texts, desc="similar shots"), nearest.tolist(), strict=True):
            pieces = [template.demonstration(shots[i].inputs, shots[i].label) for i in chosen]
            before = template.separator.join(pieces)
            ids = layout.task(template.separator + before) if windows else layout.tokens.ids(before)
            behind = reader.extended(context, [Piece(ids)])
            asked = [inputs, *(self._content_free() if len(scores) < CALIBRATING else ())]
            tasks = [Piece(self._task(layout, each), trie) for each in asked]
            found = [trie.score(logits).cpu().log_softmax(-1) for logits in reader.packed(behind, tasks)]
            scores.append(found[0])
            priors += found[1:]
        return torch.stack(scores), torch.stack(priors).exp().mean(0).log() if priors else None

    # -- without

    def _without_model(self, name: str) -> torch.Tensor:
        names, encoder = self.labels.names, self.encoder if name in EMBEDDED else by_ngrams
        shots = [(" ".join(each.inputs), names.index(each.label)) for each in self.dealt.shots]
        return baseline_scores(name, shots, [" ".join(inputs) for inputs in self.texts], len(names), encoder)
