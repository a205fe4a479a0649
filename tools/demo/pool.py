"""Training scenes: worker processes draw and pack new ones without end, and a ring on the device keeps the newest."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import queue
import threading
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prefixkv.demo.documents.document import Document, draw_document
from prefixkv.demo.documents.questions import document_questions
from prefixkv.demo.questions import Question, scene_questions
from prefixkv.demo.scenes import IMAGE_PIXELS, MAX_OBJECTS, draw_scene
from tools.demo.labels import ATTRIBUTES, BACKGROUND, PATCHES, object_attributes, patch_objects
from tools.demo.packing import Packer
from tools.demo.reading_labels import LABELS, no_labels, patch_labels

_PACKING_STREAM = 7004
_MORE_CHARTS = 0.2
"""Share of documents that are charts whatever their seeds say: arithmetic takes the most examples."""
_HARD_KINDS = ("difference", "compare")
_MORE_SEEDS = 4
"""Questions of the hard kinds are asked from so many seeds, the others from one."""

Fields = dict[str, tuple[tuple[int, ...], type]]


def fields(text_tokens: int) -> Fields:
    """Name, shape and type of everything that is kept of one scene."""
    text = (text_tokens,)
    return {
        "images": ((IMAGE_PIXELS, IMAGE_PIXELS, 3), np.uint8),
        "patch_objects": ((PATCHES * PATCHES,), np.uint8),
        "reading": ((PATCHES * PATCHES, 1 + len(LABELS)), np.uint8),
        "attributes": ((MAX_OBJECTS, len(ATTRIBUTES)), np.uint8),
        "tokens": (text, np.int16),
        "segments": (text, np.uint8),
        "positions": (text, np.int16),
        "answers": (text, np.uint8),
        "kinds": (text, np.uint8),
        "weights": (text, np.float16),
    }


def _views(buffer: Any, count: int, layout: Fields) -> dict[str, np.ndarray]:
    views: dict[str, np.ndarray] = {}
    offset = 0
    for name, (shape, dtype) in layout.items():
        entries = count * int(np.prod(shape))
        views[name] = np.frombuffer(buffer, dtype=dtype, count=entries, offset=offset).reshape(count, *shape)
        # Eight-byte steps keep every array aligned.
        offset += -(-views[name].nbytes // 8) * 8
    return views


def _bytes(count: int, layout: Fields) -> int:
    sizes = (count * int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())
    return sum(-(-size // 8) * 8 for size in sizes)


def fill(views: dict[str, np.ndarray], row: int, seed: int, packer: Packer, documents: float) -> None:
    """Draw, label and pack the scene or the document of a seed into one row of the arrays.

    Args:
        views: Arrays as in `fields`.
        row: Which row to fill.
        seed: Of the picture.
        packer: Packs its questions.
        documents: Share of documents among all pictures.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_PACKING_STREAM, seed])))
    if rng.random() < documents:
        document = draw_document(seed, "chart" if rng.random() < _MORE_CHARTS else None)
        size = (IMAGE_PIXELS, IMAGE_PIXELS)
        # As the processor does it.
        image = document.image if document.image.size == size else document.image.resize(size, Image.Resampling.BICUBIC)
        packed = packer.pack(_training_questions(document), rng)
        views["images"][row] = np.asarray(image)
        views["patch_objects"][row] = BACKGROUND
        views["attributes"][row] = 0
        views["reading"][row] = patch_labels(document)
    else:
        scene = draw_scene(seed)
        packed = packer.pack(scene_questions(scene, 0), rng)
        views["images"][row] = np.asarray(scene.image)
        views["patch_objects"][row] = patch_objects(scene)
        views["attributes"][row] = object_attributes(scene)
        views["reading"][row] = no_labels()
    for name in ("tokens", "segments", "positions", "answers", "kinds", "weights"):
        views[name][row] = getattr(packed, name)


def _training_questions(document: Document) -> list[Question]:
    questions = document_questions(document.kind, document.content, 0, document.seed)
    more = [
        question
        for seed in range(1, _MORE_SEEDS)
        for question in document_questions(document.kind, document.content, seed, document.seed)
        if question.kind in _HARD_KINDS
    ]
    return list(dict.fromkeys((*questions, *more)))


def fixed_pictures(seeds: range, packer: Packer, documents: float) -> dict[str, Tensor]:
    """The scenes and documents of some seeds as CPU tensors, for measuring while training."""
    layout = fields(packer.text_tokens)
    views = _views(bytearray(_bytes(len(seeds), layout)), len(seeds), layout)
    for row, seed in enumerate(seeds):
        fill(views, row, seed, packer, documents)
    return {name: torch.from_numpy(view) for name, view in views.items()}


def _work(
    slots: list[Any], chunk: int, packer: Packer, seeds: tuple[int, int], documents: float, free: Any, ready: Any
) -> None:
    os.nice(5)
    seed, step = seeds
    layout = fields(packer.text_tokens)
    while True:
        slot = free.get()
        views = _views(slots[slot], chunk, layout)
        for row in range(chunk):
            fill(views, row, seed, packer, documents)
            seed += step
        ready.put(slot)


class ScenePool:
    """A ring of scenes on the device, refreshed by worker processes.

    Make it before anything touches the GPU: the workers are forked.

    Args:
        packer: Packs the questions of a scene.
        first_seed: Seeds are counted up from here.
        workers: Worker processes.
        capacity: Scenes in the ring, a multiple of `chunk`.
        documents: Share of documents among the pictures.
        chunk: Scenes that move to the device together.
    """

    def __init__(
        self, packer: Packer, first_seed: int, workers: int, capacity: int, documents: float, chunk: int = 64
    ) -> None:
        self._layout = fields(packer.text_tokens)
        self._chunk = chunk
        self.capacity = capacity
        self.drawn = 0
        context = multiprocessing.get_context("fork")
        # Anonymous shared memory: no files that a killed run would leave behind.
        self._slots = [mmap.mmap(-1, _bytes(chunk, self._layout)) for _ in range(2 * workers)]
        self._free, self._ready = context.Queue(), context.Queue()
        for slot in range(len(self._slots)):
            self._free.put(slot)
        self._staged: queue.Queue[dict[str, Tensor]] = queue.Queue(maxsize=4)
        self._processes = []
        for worker in range(workers):
            seeds = (first_seed + worker, workers)
            arguments = (self._slots, chunk, packer, seeds, documents, self._free, self._ready)
            self._processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self._processes[-1].start()

    def start(self, device: torch.device) -> None:
        """Begin to move scenes to the device."""
        self._ring = {
            name: torch.zeros((self.capacity, *shape), dtype=torch.from_numpy(np.zeros(0, dtype)).dtype, device=device)
            for name, (shape, dtype) in self._layout.items()
        }
        threading.Thread(target=self._feed, args=(device,), daemon=True).start()

    def _feed(self, device: torch.device) -> None:
        stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        while True:
            slot = self._ready.get()
            views = _views(self._slots[slot], self._chunk, self._layout)
            with torch.cuda.stream(stream):
                staged = {name: torch.from_numpy(view).to(device, copy=True) for name, view in views.items()}
            if stream is not None:
                stream.synchronize()
            self._free.put(slot)
            self._staged.put(staged)

    def refresh(self, at_least: int = 0) -> None:
        """Take in what the workers have finished; wait until the pool has seen `at_least` scenes."""
        while self.drawn < at_least or not self._staged.empty():
            staged = self._staged.get()
            start = self.drawn % self.capacity
            for name, value in staged.items():
                if value.is_cuda:
                    # Else the allocator may hand the memory to the next chunk before this copy has run.
                    value.record_stream(torch.cuda.current_stream(value.device))
                self._ring[name][start : start + self._chunk] = value
            self.drawn += self._chunk

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random batch of the scenes in the ring.

        Args:
            size: Scenes in the batch.
            generator: A generator on the CPU.

        Returns:
            The tensors of `fields`, each with `size` rows.
        """
        rows = torch.randint(min(self.drawn, self.capacity), (size,), generator=generator)
        rows = rows.to(self._ring["images"].device, non_blocking=True)
        return {name: value.index_select(0, rows) for name, value in self._ring.items()}

    def close(self) -> None:
        """Stop the workers."""
        for process in self._processes:
            process.terminate()
