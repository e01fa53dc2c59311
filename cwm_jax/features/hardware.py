"""Hardware cards: the properties of a device that are inputs of the model."""

import dataclasses
import importlib.resources
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import orjson
from jaxtyping import Float32

from cwm_jax.errors import HardwareError
from cwm_jax.records.lines import without_mark

DeviceKind = Literal["cpu", "gpu"]

_KINDS_OF_WORDS: dict[str, DeviceKind] = {
    # Target kinds of TVM, old and new, whose default keys say no more.
    **dict.fromkeys(("llvm", "c", "cuda_host", "stackvm", "hybrid"), "cpu"),
    **dict.fromkeys(("cuda", "nvptx", "rocm", "hip", "opencl", "metal", "vulkan", "webgpu"), "gpu"),
    # Keys, and devices that stand for keys.
    **dict.fromkeys(("cpu", "arm_cpu", "rasp", "x86", "riscv_cpu", "hexagon"), "cpu"),
    **dict.fromkeys(("gpu", "mali", "bifrost", "adreno", "intel_graphics"), "gpu"),
    # Vendors of tagged targets, such as `nvidia/nvidia-a100`.
    **dict.fromkeys(("aws/cpu", "raspberry-pi", "arm", "riscv", "qcom/hexagon"), "cpu"),
    **dict.fromkeys(("nvidia", "apple", "qcom/adreno"), "gpu"),
}
_ATTRIBUTE = re.compile(r"(?<!\S)--?(keys|device)[=\s]\s*(\S+)")


@dataclasses.dataclass(frozen=True)
class HardwareCard:
    """Holds the properties of a device. A field is 0 where unknown or meaningless for its kind.

    Attributes:
        name: Names the card and its checkpoint, such as `cpu-x86-2core`.
        kind: `cpu` or `gpu`.
        cores: CPU cores that run the program, or GPU streaming multiprocessors.
        vector_bits: Width of a vector register, or of a warp's 32-bit lanes.
        clock_ghz: Sustained clock.
        l1_kib: First-level data cache of a core.
        l2_kib: Second-level cache, of a core on a CPU and of the device on a GPU.
        l3_kib: Last-level cache.
        memory_gb_per_s: Memory bandwidth.
        shared_memory_kib: Shared memory of a GPU block.
        threads_per_block: Limit of a GPU block.
        peak_gflops: Peak float32 arithmetic.
    """

    name: str
    kind: DeviceKind
    cores: int
    vector_bits: int
    clock_ghz: float
    l1_kib: float
    l2_kib: float
    l3_kib: float
    memory_gb_per_s: float
    shared_memory_kib: float
    threads_per_block: int
    peak_gflops: float


_NUMBERS = tuple(
    field.name for field in dataclasses.fields(HardwareCard) if field.name not in ("name", "kind")
)
HARDWARE_COLUMNS = ("is_cpu", "is_gpu", *_NUMBERS)
"""Meaning of each column of an encoded card."""
HARDWARE_WIDTH = len(HARDWARE_COLUMNS)


def encode_hardware(card: HardwareCard) -> Float32[np.ndarray, "column"]:
    """Encodes a card as `HARDWARE_COLUMNS`; numbers as `log2(1 + number) / 8`."""
    numbers = [np.log2(1 + float(getattr(card, name))) / 8 for name in _NUMBERS]
    return np.array([card.kind == "cpu", card.kind == "gpu", *numbers], np.float32)


def hardware_from_json(text: bytes | str, where: str) -> HardwareCard:
    """Reads a card.

    Raises:
        HardwareError: A field is missing, unknown or of the wrong type.
    """
    try:
        data = orjson.loads(without_mark(text.encode() if isinstance(text, str) else text))
        fields = {field.name for field in dataclasses.fields(HardwareCard)}
        if not isinstance(data, dict):
            raise HardwareError(f"{where}: found {str(data)[:40]}, expected an object of {fields}")
        for name in sorted(data.keys() ^ fields):
            what = "is unknown" if name in data else "is missing"
            raise HardwareError(f"{where}: field {name!r} {what}")
        card = HardwareCard(**data)
        if card.kind not in ("cpu", "gpu") or not re.fullmatch(r"[\w.-]{1,64}", card.name):
            raise HardwareError(f"{where}: kind {card.kind!r} or name {card.name!r} is invalid")
        for name in _NUMBERS:
            value = getattr(card, name)
            if type(value) not in (int, float) or not 0 <= value < 1e12:
                raise HardwareError(f"{where}: {name} is {value!r}, expected a number >= 0")
    except (orjson.JSONDecodeError, TypeError) as error:
        raise HardwareError(f"{where}: not a hardware card ({error})") from error
    return card


def kind_of_target(target: str) -> DeviceKind | None:
    """Returns what kind of device a target is of, None if that is not known.

    Keys decide first (`-keys=arm_cpu,cpu`), then the device (`-device=mali`), then TVM's target
    kind: programs for `opencl` run on GPUs unless the target says otherwise.

    Args:
        target: TVM target string, the JSON of one, or a tag.
    """
    words = _words_of_target(target.strip().lower())
    known: Iterator[DeviceKind | None] = (_KINDS_OF_WORDS.get(word) for word in words)
    return next((kind for kind in known if kind), None)


def _words_of_target(target: str) -> list[str]:
    """The words of a target that tell its kind, the strongest first."""
    try:
        data = orjson.loads(target)
    except orjson.JSONDecodeError:
        found = {str(name): str(value) for name, value in _ATTRIBUTE.findall(target)}
        keys, device = found.get("keys", "").split(","), found.get("device", "")
        kind = target.partition(" ")[0]
    else:
        if not isinstance(data, dict):
            return []
        stated = data.get("keys")
        keys = [str(key) for key in stated] if isinstance(stated, list) else []
        device, kind = str(data.get("device", "")), str(data.get("kind") or data.get("tag", ""))
    vendor, _, model = kind.partition("/")
    # The general key, "cpu" or "gpu", stands last; a tag begins with its vendor.
    return [
        *reversed(keys),
        device,
        kind,
        f"{vendor}/{model.partition('/')[0].partition('-')[0]}",
        vendor,
    ]


def known_hardware() -> tuple[str, ...]:
    """Returns the names of the cards in the package."""
    folder = importlib.resources.files("cwm_jax") / "hardware"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def load_hardware(name: str) -> HardwareCard:
    """Loads a card of the package by name, or any card by the path of a `.json` file.

    Raises:
        HardwareError: There is no such card.
    """
    if name.endswith(".json"):
        path = Path(name)
        if not path.is_file():
            raise HardwareError(f"{name}: no such hardware card")
        return hardware_from_json(path.read_bytes(), name)
    if name not in known_hardware():
        known = ", ".join(known_hardware())
        raise HardwareError(f"unknown hardware {name!r}; known are {known}, or give a .json card")
    resource = importlib.resources.files("cwm_jax") / "hardware" / f"{name}.json"
    return hardware_from_json(resource.read_bytes(), f"{name}.json")


_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Caches(NamedTuple):
    """Sizes of the first core's caches in KiB; 0 where unknown."""

    l1: int
    l2: int
    l3: int


def host_caches(folder: Path = _CACHES) -> Caches:
    """Reads the sizes of the data caches from Linux.

    Args:
        folder: Folder of the caches in sysfs.
    """
    found = {1: 0, 2: 0, 3: 0}
    for index in folder.glob("index*"):
        try:
            kind, level, size = (
                (index / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K") and int(level) in found:
            found[int(level)] = int(size[:-1])
    return Caches(*found.values())
