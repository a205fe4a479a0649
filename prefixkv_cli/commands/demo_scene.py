"""`prefixkv demo-scene`: draw shapes or a document, with questions and exact answers."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefixkv.demo import SHAPES
from prefixkv.demo.documents import DOCUMENT_KINDS, SOFTWARE, SOFTWARE_FIELD
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv_cli import options, output

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.demo.questions import Question

_FRESH_SEEDS = 10**9
_KINDS = (SHAPES, *DOCUMENT_KINDS)


def demo_scene(
    path: Annotated[str, typer.Argument(metavar="OUT.png", help="The picture to write.")],
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            envvar="PREFIXKV_SCENE_SEED",
            help="The same seed draws the same picture.",
            show_default="a new one",
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--kind", help=f"What to draw: {', '.join(_KINDS)}.", autocompletion=options.starting_with(lambda: _KINDS)
        ),
    ] = SHAPES,
    json: options.JsonOption = False,
) -> None:
    """Draw a picture for the demo model; print questions about it with their answers.

    Example: prefixkv demo-scene scene.png --seed 7

    Example: prefixkv demo-scene receipt.png --kind receipt
    """
    if not path.lower().endswith(".png"):
        raise OptionError(f"picture {path!r} cannot be written: give a name that ends in .png")
    if seed is not None and seed < 0:
        raise OptionError(f"seed {seed} is negative: give 0 or more")
    if kind not in _KINDS:
        raise OptionError(f"kind {kind!r} is not known: give {', '.join(_KINDS)}")
    seed = secrets.randbelow(_FRESH_SEEDS) if seed is None else seed
    image, questions = _drawn(kind, seed)
    _write_png(image, Path(path))
    if json:
        asked = [
            {
                "kind": question.kind,
                "question": question.question,
                "answer": question.answer,
                "context": [list(turn) for turn in question.context],
            }
            for question in questions
        ]
        output.write_document("scene", {"path": path, "kind": kind, "seed": seed, "questions": asked})
        return
    output.notice(f"wrote {path} (seed {seed})")
    output.write_text("".join(f"{_as_text(question)}\n" for question in questions))


def _drawn(kind: str, seed: int) -> tuple[Image, list[Question]]:
    if kind != SHAPES:
        from prefixkv.demo.documents.document import draw_document
        from prefixkv.demo.documents.questions import document_questions

        document = draw_document(seed, kind)
        return document.image, document_questions(kind, document.content, seed, seed)
    from prefixkv.demo.questions import scene_questions
    from prefixkv.demo.scenes import draw_scene

    scene = draw_scene(seed)
    return scene.image, scene_questions(scene, seed)


def _as_text(question: Question) -> str:
    before = "".join(f"{asked} -> {answer} / " for asked, answer in question.context)
    return f"{question.kind}: {before}{question.question} -> {question.answer}"


def _write_png(image: Image, path: Path) -> None:
    """Write all or nothing: a picture that is there already is replaced only by a whole one."""
    if path.is_dir():
        raise PrefixKVError(f"picture {str(path)!r} is a folder: give a file name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        from PIL.PngImagePlugin import PngInfo

        texts = PngInfo()
        texts.add_text(SOFTWARE_FIELD, SOFTWARE)
        image.save(temporary, format="PNG", pnginfo=texts)
        temporary.replace(path)
    except FileNotFoundError as error:
        raise PrefixKVError(f"folder {str(path.parent)!r} does not exist: create it first") from error
    except PermissionError as error:
        raise PrefixKVError(f"picture {str(path)!r} may not be written: check the folder's permissions") from error
    except NotADirectoryError as error:
        raise PrefixKVError(f"{str(path.parent)!r} is a file, not a folder: write somewhere else") from error
    finally:
        temporary.unlink(missing_ok=True)
