"""What prefixkv is made of: a bill of materials of what is installed, and what is publicly known against it.

`python -m tools.supply sbom FILE` writes CycloneDX and ends with 1 where a requirement is missing or does not meet its
bounds, or one of pyproject.toml does not say what its licence is. `python -m tools.supply audit` ends with 1 where
faults are known, and with 2 where the public database cannot be asked.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "prefixkv"
UNKNOWN = 2
"""Exit code of an audit that could not be made."""


def required(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What a distribution needs on this machine.

    Args:
        name: of the distribution.
        extras: that are wanted of it.
    """
    listed = [Requirement(line) for line in metadata.requires(name) or ()]
    wanted = extras or {""}
    return [one for one in listed if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in wanted)]


def licences(found: metadata.Distribution) -> list[str]:
    """What a distribution says of its licence: an SPDX expression, a name, or classifiers."""
    head = found.metadata
    told = [text.strip() for key in ("License-Expression", "License") for text in head.get_all(key) or ()]
    if said := [text for text in told if text]:
        return [said[0].splitlines()[0][:100]]
    classifiers = [line for line in head.get_all("Classifier") or () if line.startswith("License ::")]
    return [line.rpartition(" :: ")[2] for line in classifiers] or [
        f"see {file.name}"
        for file in found.files or ()
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))
    ][:1]


def bill() -> tuple[dict[str, Any], list[str]]:
    """The bill of materials, and what is wrong with it."""
    components: dict[str, dict[str, Any]] = {}
    depends: dict[str, list[str]] = {}
    faults: list[str] = []
    waiting = [(PROJECT, frozenset[str]())]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        found = metadata.distribution(name)
        key = canonicalize_name(name)
        version = found.version
        components[key] = {
            "type": "library",
            "bom-ref": key,
            "name": key,
            "version": version,
            "purl": f"pkg:pypi/{key}@{version}",
            "licenses": [{"license": {"name": licence}} for licence in licences(found)],
        }
        if not components[key]["licenses"] and key in depends[PROJECT]:
            faults.append(f"{key} {version} does not say what its licence is")
        for one in required(name, extras):
            needed = canonicalize_name(one.name)
            depends.setdefault(key, []).append(needed)
            try:
                there = metadata.version(one.name)
            except metadata.PackageNotFoundError:
                faults.append(f"{needed}, which {key} requires, is not installed")
                continue
            if not one.specifier.contains(there, prereleases=True):
                faults.append(f"{needed} {there} is installed, and {key} requires {one.specifier}")
            if (step := (one.name, frozenset(one.extras))) not in seen:
                seen.add(step)
                waiting.append(step)
    project = components.pop(PROJECT)
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**project, "type": "application"}},
        "components": [components[key] for key in sorted(components)],
        "dependencies": [
            {"ref": key, "dependsOn": sorted(set(depends.get(key, ())))} for key in (PROJECT, *sorted(components))
        ],
    }
    return content, sorted(set(faults))


def write_bill(path: Path) -> int:
    """Write the bill of materials, and say what is wrong with it."""
    content, faults = bill()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    silent = [one["name"] for one in content["components"] if not one["licenses"]]
    told = f", {len(silent)} of them without a licence: {', '.join(silent)}" * bool(silent)
    print(*faults, f"{path}: {len(content['components'])} packages{told}", sep="\n")
    return 1 if faults else 0


def audit() -> int:
    """Ask the public database for known faults of all that is installed here."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pip-audit"]
    if (
        importlib.util.find_spec("pip_audit") is None
        and subprocess.run(pip, capture_output=True, check=False).returncode
    ):
        return _unknown("pip-audit cannot be installed: pip's registry does not answer")
    asked = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return _unknown((done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1][:300])
    faults = list(_known_faults(packages))
    if faults:
        print(*faults, sep="\n")
    if skipped := [package for package in packages if "skip_reason" in package]:
        _unknown(f"{skipped[0]['skip_reason']} ({len(skipped)} of {len(packages)} packages)")
    elif not faults:
        print(f"{len(packages)} packages: no fault is known")
    return 1 if faults else UNKNOWN if skipped else 0


def _known_faults(packages: list[dict[str, Any]]) -> Iterator[str]:
    for package in packages:
        for fault in package.get("vulns", ()):
            mended = ", ".join(fault["fix_versions"]) or "no version"
            yield f"{package['name']} {package['version']}: {fault['id']}, mended in {mended}"


def _unknown(reason: str) -> int:
    print(f"nothing is known of what is installed: {reason}", file=sys.stderr)
    return UNKNOWN


if __name__ == "__main__":
    sys.exit(audit() if sys.argv[1] == "audit" else write_bill(Path(sys.argv[2])))
