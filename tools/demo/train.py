"""Train the demo model: `python -m tools.demo.train --minutes 14 --out DIR`.

The pictures are scenes and documents. First the vision tower alone on dense labels of its patches, then the whole model
on packed conversations: trained end to end from scratch the decoder never learns to look at the picture.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefixkv.demo.scenes import TRAINING_SEED_START
from tools.demo.forward import PackedForward
from tools.demo.labels import ATTRIBUTES
from tools.demo.losses import KIND_NAMES, DenseHeads, answer_loss, exact_matches
from tools.demo.model import build_config, build_model, build_processor, save_model
from tools.demo.packing import Packer
from tools.demo.pool import ScenePool, fixed_pictures
from tools.demo.reading_heads import ReadingHeads, describe
from tools.demo.recipe import Recipe
from tools.demo.tokens import build_tokenizer

# Scenes that training never draws, still above every public seed.
_HELD_OUT_SEED_START = 2 * TRAINING_SEED_START


class Trainer:
    """One training run.

    Args:
        recipe: What to do.
        out: Folder for the weights, the log and the metrics.
        resume: A folder of an earlier run, to go on from its weights with a fresh schedule; or None.
        device: Where to train.
    """

    def __init__(self, recipe: Recipe, out: Path, resume: Path | None, device: torch.device) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        self.began = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self._log_file = (out / "training_log.txt").open("a", encoding="utf-8")
        self._earlier = None
        if resume is not None:
            self._earlier = json.loads((resume / "training.json").read_text(encoding="utf-8"))
            self._log_file.write((resume / "training_log.txt").read_text(encoding="utf-8"))
        # Weights are worth nothing with another vocabulary, and what it is built from may have changed since.
        tokenizer = (
            build_tokenizer()
            if resume is None
            else transformers.PreTrainedTokenizerFast.from_pretrained(resume / "weights")
        )
        self.processor = build_processor(tokenizer)
        packer = Packer(tokenizer, recipe.text_tokens)
        first_seed = TRAINING_SEED_START + recipe.seed * 10**9 + (5 * 10**8 if resume else 0)
        self.pool = ScenePool(packer, first_seed, recipe.workers, recipe.capacity, recipe.documents)
        held_out_seeds = range(_HELD_OUT_SEED_START, _HELD_OUT_SEED_START + 6 * recipe.batch)
        held_out = fixed_pictures(held_out_seeds, packer, recipe.documents)
        model: Any
        if resume is None:
            model = build_model(build_config(tokenizer, recipe.tiny), recipe.seed)
        else:
            model = transformers.LlavaForConditionalGeneration.from_pretrained(resume / "weights", dtype=torch.float32)
        self.heads = DenseHeads(model.config.vision_config.hidden_size)
        if resume is not None:
            self.heads.load_state_dict(load_file(resume / "heads.safetensors"))
        self.reading = ReadingHeads(model.config.vision_config.hidden_size)
        # A model that has only seen scenes has none: they begin anew.
        if resume is not None and (resume / "reading_heads.safetensors").is_file():
            self.reading.load_state_dict(load_file(resume / "reading_heads.safetensors"))
        self.resumed = resume is not None
        self.model, self.heads, self.reading = model.to(device), self.heads.to(device), self.reading.to(device)
        self.held_out = {name: value.to(device) for name, value in held_out.items()}
        self.prefix = torch.from_numpy(packer.prefix).to(device)
        on_gpu = device.type == "cuda"
        self.forward = PackedForward(
            self.model, torch.bfloat16 if on_gpu else torch.float32, compiled=on_gpu, flex=on_gpu and recipe.flex
        )
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.pool.start(device)
        self.seen = 0
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.log(f"recipe {json.dumps(asdict(recipe))}")
        self.log(f"parameters {parameters}, device {device_name(device)}, torch {torch.__version__}")

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def log(self, line: str) -> None:
        """Write one line, with the time, to the log and to standard output."""
        text = f"[{self.seconds():7.1f} s] {line}"
        print(text, flush=True)
        self._log_file.write(text + "\n")
        self._log_file.flush()

    def run(self) -> None:
        """Train, measure and save."""
        total = self.recipe.minutes * 60
        self.pool.refresh(at_least=min(self.recipe.capacity, 16 * self.recipe.batch))
        self.log(f"pool holds {self.pool.drawn} scenes")
        if self.recipe.tower_share:
            self._train("tower", self.seconds(), total * self.recipe.tower_share)
        self._train("whole", self.seconds(), total)
        self.pool.close()
        self.log(f"done: {self.seen} pictures read, {self.pool.drawn} different ones drawn")

    def _train(self, phase: str, start: float, end: float) -> None:
        groups = self._parameter_groups(phase)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02, fused=self.device.type == "cuda")
        trained = [parameter for group in groups for parameter in group["params"]]
        warm_up = 100 if phase == "tower" else self.recipe.warm_up
        step, next_log, next_measure, next_save = 0, start + 5, start + 30, start + 120
        window = [self.seconds(), float(self.seen)]
        while True:
            now = self.seconds()
            progress = min(1.0, (now - start) / max(end - start, 1e-6))
            if progress >= 1.0:
                break
            floor = 0.1 if phase == "tower" else 0.01
            scale = min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            self.pool.refresh()
            loss, parts = self._losses(phase, self.pool.batch(self.recipe.batch, self.generator))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
            optimizer.step()
            step += 1
            self.seen += self.recipe.batch
            # Reading the loss waits for the device; every eighth step keeps the clock honest at little cost.
            if step % 8 and now < next_log:
                continue
            figures = {name: round(float(value), 4) for name, value in parts.items()}
            if now >= next_log:
                rate = (self.seen - window[1]) / max(self.seconds() - window[0], 1e-6)
                window = [self.seconds(), float(self.seen)]
                self.log(f"{phase} step {step} lr {scale:.3f} {figures} {rate:.0f} pictures/s, drawn {self.pool.drawn}")
                next_log = self.seconds() + 15
            if now >= next_measure:
                self.log(self.measure(tower_only=phase == "tower"))
                next_measure = self.seconds() + 45
            if now >= next_save:
                self.save()
                next_save = self.seconds() + 120
        # Saved before it is measured: whatever ends the run early, the last weights are safe.
        self.save()
        self.log(self.measure(tower_only=phase == "tower"))

    def _parameter_groups(self, phase: str) -> list[dict[str, Any]]:
        tower_peak = self.recipe.tower_peak if phase == "tower" else self.recipe.joint_tower_peak
        named = [(name, parameter, tower_peak) for name, parameter in self.model.model.vision_tower.named_parameters()]
        for heads in (self.heads, self.reading):
            named += [(name, parameter, tower_peak) for name, parameter in heads.named_parameters()]
        if phase == "whole":
            for part in (self.model.model.language_model, self.model.model.multi_modal_projector):
                named += [(name, parameter, self.recipe.peak) for name, parameter in part.named_parameters()]
        groups = []
        for peak in sorted({peak for _, _, peak in named}):
            for decayed in (True, False):
                chosen = [
                    parameter
                    for name, parameter, own in named
                    if own == peak and (parameter.ndim > 1 and "embed" not in name) == decayed
                ]
                groups.append({"params": chosen, "peak": peak, **({} if decayed else {"weight_decay": 0.0})})
        return [group for group in groups if group["params"]]

    def _losses(self, phase: str, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        patches = self.forward.patches(batch["images"])
        scenes, accuracies = self.heads(patches, batch["patch_objects"], batch["attributes"])
        reading, right = self.reading(patches, batch["reading"])
        dense = scenes + reading
        if phase == "tower":
            return dense, {"dense": dense.detach(), "right": accuracies.mean(), "characters": right[1]}
        answers = answer_loss(self._logits(patches, batch), batch)
        return answers + self.recipe.dense_weight * dense, {"answers": answers.detach(), "dense": dense.detach()}

    def _logits(self, patches: Tensor, batch: dict[str, Tensor]) -> Tensor:
        tokens, segments = batch["tokens"].long(), batch["segments"].int()
        return self.forward.logits(patches, self.prefix, tokens, segments, batch["positions"].long())

    def measure(self, tower_only: bool = False) -> str:
        """Accuracy on the held-out scenes, in one line."""
        # Gradients stay on: without them every compiled graph would be compiled a second time.
        accuracies, rights, counts = [], [], torch.zeros(2, len(KIND_NAMES), device=self.device)
        for start in range(0, len(self.held_out["images"]), self.recipe.batch):
            batch = {name: value[start : start + self.recipe.batch] for name, value in self.held_out.items()}
            patches = self.forward.patches(batch["images"])
            accuracies.append(self.heads(patches, batch["patch_objects"], batch["attributes"])[1])
            rights.append(self.reading(patches, batch["reading"])[1])
            if not tower_only:
                counts += torch.stack(exact_matches(self._logits(patches, batch).detach(), batch))
        dense = torch.stack(accuracies).mean(0).tolist()
        line = " ".join(f"{name} {value:.3f}" for name, value in zip(("object", *ATTRIBUTES), dense, strict=True))
        line = f"{line} | reading: {describe(torch.stack(rights).mean(0))}"
        if tower_only:
            return f"held-out patches: {line}"
        exact, total = counts.tolist()
        kinds = " ".join(f"{n} {e / max(t, 1):.3f}" for n, e, t in zip(KIND_NAMES, exact, total, strict=True))
        asked = sum(total[:-1])
        return f"held-out exact {sum(exact[:-1]) / max(asked, 1):.4f} of {asked:.0f}: {kinds} | patches: {line}"

    def save(self) -> None:
        """Write the weights, so far, as a folder for `from_pretrained`, and the dense heads beside it."""
        save_model(self.model, self.processor, self.out / "weights")
        for heads, name in ((self.heads, "heads.safetensors"), (self.reading, "reading_heads.safetensors")):
            save_file({key: value.cpu() for key, value in heads.state_dict().items()}, self.out / name)
        facts: dict[str, Any] = {
            "command": f"python -m tools.demo.train --minutes {self.recipe.minutes:g} --seed {self.recipe.seed}",
            "recipe": asdict(self.recipe),
            "earlier": self._earlier,
            "device": device_name(self.device),
            "seconds": round(self.seconds(), 1),
            "pictures_read": self.seen,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }
        if self.resumed:
            facts["command"] = f"{facts['command']} --resume DIR"
        (self.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        self.log("saved")


def device_name(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo.train", description="Train the demo model.")
    parser.add_argument("--minutes", type=float, default=Recipe.minutes)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="folder of an earlier run to go on from")
    parser.add_argument("--peak", type=float, default=Recipe.peak, help="peak learning rate of the decoder")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="scenes a step")
    parser.add_argument("--capacity", type=int, default=Recipe.capacity, help="scenes kept on the device")
    parser.add_argument("--warm-up", type=int, default=Recipe.warm_up, help="steps of rising learning rate")
    parser.add_argument(
        "--tower-share", type=float, default=Recipe.tower_share, help="share of the time for the tower alone"
    )
    parser.add_argument(
        "--documents", type=float, default=Recipe.documents, help="share of documents; the other pictures are scenes"
    )
    parser.add_argument("--dense-weight", type=float, default=Recipe.dense_weight)
    parser.add_argument("--plain-attention", action="store_true", help="no flex attention on a GPU")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--tiny", action="store_true", help="a tiny model and small batches, to try the code")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if options.tiny:
        options.batch, options.capacity = 4, 256
    recipe = Recipe(
        seed=options.seed,
        minutes=options.minutes,
        workers=options.workers,
        batch=options.batch,
        capacity=options.capacity,
        peak=options.peak,
        joint_tower_peak=0.3 * options.peak,
        tower_share=options.tower_share,
        warm_up=options.warm_up,
        dense_weight=options.dense_weight,
        documents=options.documents,
        flex=not options.plain_attention,
        tiny=options.tiny,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    Trainer(recipe, options.out, options.resume, device).run()


if __name__ == "__main__":
    main()
