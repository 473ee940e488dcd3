# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configurations of images (image-spec 1.1, and Docker's schema 2): parse, check, choose. No I/O.

A manifest is an attacker's document until its digest has been compared, and one that says what was asked for after that.
What it is, its own text says, and nobody's Content-Type (CVE-2021-41190).
"""

from __future__ import annotations

from typing import Any, TypedDict, cast

from ctnr.errors import SpecError
from ctnr.spec.schema import (
    ANY,
    NAME,
    STRINGS,
    TEXT,
    check,
    integer,
    list_of,
    map_of,
    quote,
    record,
)

MANIFEST_LIMIT = 4 << 20
CONFIG_LIMIT = 8 << 20

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_V1 = "application/vnd.docker.distribution.manifest.v1"  # and +json, +prettyjws

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)

# media type of a layer -> its compression; "nondistributable" and foreign ones are as good, if one can get them
LAYERS = {
    OCI_LAYER: "",
    OCI_LAYER + "+gzip": "gzip",
    OCI_LAYER + "+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    DOCKER_LAYER: "",
    DOCKER_LAYER + ".gzip": "gzip",
    DOCKER_LAYER + ".zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}

# algorithm -> number of hexadecimal digits (descriptor.md#registered-algorithms)
ALGORITHMS = {"sha256": 64, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


class Platform(TypedDict, total=False):
    architecture: str
    os: str
    variant: str


# "os.version" and "os.features" are no names in Python
class Descriptor(TypedDict, total=False):
    """descriptor.md. `size` in bytes."""

    mediaType: str
    digest: str
    size: int
    urls: list[str]
    annotations: dict[str, str]
    data: str
    artifactType: str
    platform: Platform


class Index(TypedDict, total=False):
    schemaVersion: int
    mediaType: str
    artifactType: str
    manifests: list[Descriptor]
    subject: Descriptor
    annotations: dict[str, str]


class Manifest(TypedDict, total=False):
    schemaVersion: int
    mediaType: str
    artifactType: str
    config: Descriptor
    layers: list[Descriptor]
    subject: Descriptor
    annotations: dict[str, str]


class HealthCheck(TypedDict, total=False):
    """Docker's addition. Times in nanoseconds."""

    Test: list[str]
    Interval: int
    Timeout: int
    StartPeriod: int
    Retries: int


class ContainerConfig(TypedDict, total=False):
    """config.md: `config`, what a container of the image starts with."""

    User: str
    ExposedPorts: dict[str, Any]
    Env: list[str]
    Entrypoint: list[str]
    Cmd: list[str]
    Volumes: dict[str, Any]
    WorkingDir: str
    Labels: dict[str, str]
    StopSignal: str
    Shell: list[str]
    OnBuild: list[str]
    Healthcheck: HealthCheck


class History(TypedDict, total=False):
    created: str
    author: str
    created_by: str
    comment: str
    empty_layer: bool


class RootFS(TypedDict, total=False):
    type: str
    diff_ids: list[str]


class ImageConfig(TypedDict, total=False):
    created: str
    author: str
    architecture: str
    os: str
    variant: str
    config: ContainerConfig
    rootfs: RootFS
    history: list[History]


# --- shapes

_SIZE = integer(0, (1 << 63) - 1)
_PLATFORM = record({"architecture": TEXT, "os": TEXT, "variant": TEXT})
_DESCRIPTOR = record(
    {
        "mediaType": TEXT,
        "digest": NAME,
        "size": _SIZE,
        "urls": STRINGS,
        "annotations": map_of(TEXT),
        "artifactType": TEXT,
        "platform": _PLATFORM,
    },
    ("digest", "size"),
)
_INDEX = record(
    {
        "schemaVersion": integer(2, 2),
        "mediaType": TEXT,
        "artifactType": TEXT,
        "manifests": list_of(_DESCRIPTOR),
        "subject": _DESCRIPTOR,
        "annotations": map_of(TEXT),
    },
    ("schemaVersion", "manifests"),
)
_MANIFEST = record(
    {
        "schemaVersion": integer(2, 2),
        "mediaType": TEXT,
        "artifactType": TEXT,
        "config": _DESCRIPTOR,
        "layers": list_of(_DESCRIPTOR),
        "subject": _DESCRIPTOR,
        "annotations": map_of(TEXT),
    },
    ("schemaVersion", "config", "layers"),
)
_TIME = integer(-(1 << 63), (1 << 63) - 1)
_CONTAINER = record(
    {
        "User": TEXT,
        "ExposedPorts": map_of(ANY),
        "Env": STRINGS,
        "Entrypoint": STRINGS,
        "Cmd": STRINGS,
        "Volumes": map_of(ANY),
        "WorkingDir": TEXT,
        "Labels": map_of(TEXT),
        "StopSignal": TEXT,
        "Shell": STRINGS,
        "OnBuild": STRINGS,
        "Healthcheck": record(
            {"Test": STRINGS, "Interval": _TIME, "Timeout": _TIME, "StartPeriod": _TIME, "Retries": _TIME}
        ),
    }
)
_CONFIG = record(
    {
        "created": TEXT,
        "author": TEXT,
        "architecture": TEXT,
        "os": TEXT,
        "variant": TEXT,
        "config": _CONTAINER,
        "rootfs": record({"type": TEXT, "diff_ids": STRINGS}, ("diff_ids",)),
    },
    ("rootfs",),
)


# --- digests


def check_digest(text: str, path: str = "") -> str:
    """`text`, if it is a digest that is safe in a path and a URL (descriptor.md#digests, CVE-2024-3727). Raises SpecError."""
    algorithm, colon, hexadecimal = text.partition(":")
    if not colon or ALGORITHMS.get(algorithm) is None:
        known = " and ".join(ALGORITHMS)
        raise SpecError(path, f"not a digest: {quote(text)} ({known} are known, as in sha256:64 hexadecimal digits)")
    if len(hexadecimal) != ALGORITHMS[algorithm] or not _HEX.issuperset(hexadecimal):
        raise SpecError(
            path, f"not a digest: {quote(text)} ({algorithm} has {ALGORITHMS[algorithm]} lower-case digits)"
        )
    return text


def check_descriptor(descriptor: Descriptor, path: str = "") -> Descriptor:
    """The same descriptor, its digest and size checked. Raises SpecError."""
    check(descriptor, _DESCRIPTOR, path)
    check_digest(descriptor["digest"], f"{path}.digest" if path else "digest")
    return descriptor


# --- documents


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise SpecError("", f"the key {quote(next(n for n in names if names.count(n) > 1))} is there twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _load(data: bytes, limit: int, what: str) -> dict[str, Any]:
    """An object without repeated keys, which one reader would take for this and another for that."""
    import json

    if len(data) > limit:
        raise SpecError("", f"{what} of {len(data)} bytes: more than {limit} are not read")
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SpecError("", f"{what} is not JSON: {why}") from None
    if not isinstance(found, dict):
        raise SpecError("", f"{what} is not a JSON object")
    return found


def is_index(document: Manifest | Index) -> bool:
    return "manifests" in document


def parse_manifest(data: bytes, media_type: str | None = None) -> Manifest | Index:
    """A manifest or an index. `media_type`: what it was said to be, by a descriptor or a registry; the text must agree.

    Raises SpecError. A manifest of an artifact passes: whether it is an image is is_image()'s question.
    """
    found = _load(data, MANIFEST_LIMIT, "the manifest")
    if found.get("schemaVersion") == 1 or (media_type or "").startswith(DOCKER_V1):
        raise SpecError("schemaVersion", "Docker's schema 1 is obsolete and not supported: push the image anew")
    index, manifest = "manifests" in found, "layers" in found or "config" in found or "fsLayers" in found
    if index and manifest:
        raise SpecError("", "both a manifest and an index: refused (CVE-2021-41190)")
    if not index and not manifest:
        raise SpecError("", "neither a manifest nor an index: it has no config, layers or manifests")
    check(found, _INDEX if index else _MANIFEST)
    says = found.get("mediaType") or (OCI_INDEX if index else OCI_MANIFEST)
    known = INDEXES if index else MANIFESTS
    if says not in known:
        raise SpecError("mediaType", f"{quote(says)} is not that of {'an index' if index else 'a manifest'}")
    if media_type and media_type in (*INDEXES, *MANIFESTS) and media_type not in known:
        raise SpecError("mediaType", f"was said to be {media_type}, and is {'an index' if index else 'a manifest'}")
    if "mediaType" in found and media_type in (*INDEXES, *MANIFESTS) and media_type != says:
        raise SpecError("mediaType", f"was said to be {media_type}, and says of itself {says}")
    for i, entry in enumerate(found["manifests"] if index else found["layers"]):
        check_digest(entry["digest"], f"{'manifests' if index else 'layers'}[{i}].digest")
    if manifest:
        check_digest(found["config"]["digest"], "config.digest")
    if "subject" in found:
        check_digest(found["subject"]["digest"], "subject.digest")
    return cast("Index", found) if index else cast("Manifest", found)


def media_type_of(document: Manifest | Index) -> str:
    """What the document is, for a Content-Type or a descriptor."""
    return document.get("mediaType") or (OCI_INDEX if is_index(document) else OCI_MANIFEST)


def is_image(manifest: Manifest) -> bool:
    """Whether it is an image and no other artifact (manifest.md#guidelines-for-artifact-usage)."""
    return manifest["config"].get("mediaType") in CONFIGS and not manifest.get("artifactType")


def check_image(manifest: Manifest) -> None:
    """Raise SpecError unless it is the manifest of an image whose layers are all of a kind that we can unpack."""
    if not is_image(manifest):
        kind = manifest.get("artifactType") or manifest["config"].get("mediaType") or "nothing known"
        raise SpecError("config.mediaType", f"not an image, but {quote(kind)}")
    for i, layer in enumerate(manifest["layers"]):
        kind = layer.get("mediaType", "")
        if kind not in LAYERS:
            raise SpecError(f"layers[{i}].mediaType", f"unknown kind of layer {quote(kind)}")


def parse_config(data: bytes) -> ImageConfig:
    """The configuration of an image (config.md). Raises SpecError."""
    found = _load(data, CONFIG_LIMIT, "the image's configuration")
    history = found.get("history")
    check(found, _CONFIG)
    for i, id in enumerate(found["rootfs"]["diff_ids"]):
        check_digest(id, f"rootfs.diff_ids[{i}]")
    for i, entry in enumerate(found.get("config", {}).get("Env", ())):
        if "=" not in entry[1:]:
            # docker would take the host's value for a bare name (CVE-2026-57231)
            raise SpecError(f"config.Env[{i}]", f"must be NAME=VALUE, not {quote(entry)}")
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        found.pop("history", None)  # says nothing to a machine
    return cast("ImageConfig", found)


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """Raise SpecError unless configuration and manifest have the same number of layers."""
    layers, ids = len(manifest["layers"]), len(config["rootfs"]["diff_ids"])
    if layers != ids:
        raise SpecError("rootfs.diff_ids", f"names {ids} layers, the manifest has {layers}")


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain id of each layer, from the lowest on (config.md#layer-chainid)."""
    from hashlib import sha256

    chain: list[str] = []
    for id in diff_ids:
        chain.append("sha256:" + sha256(f"{chain[-1]} {id}".encode()).hexdigest() if chain else id)
    return chain


# --- platforms

# uname's machine -> Go's architecture, variant
_MACHINES = {
    "x86_64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
# what also runs there, best first (containerd's and docker's rules)
_VARIANTS = {"arm": ("v7", "v6", "v5"), "arm64": ("v8",)}


def host_platform() -> Platform:
    from posix import uname

    architecture, variant = _MACHINES.get(uname().machine, (uname().machine, ""))
    platform: Platform = {"os": "linux", "architecture": architecture}
    if variant:
        platform["variant"] = variant
    return platform


def parse_platform(text: str) -> Platform:
    """`[OS/]ARCHITECTURE[/VARIANT]`, as --platform has it. Raises SpecError."""
    parts = text.lower().split("/")
    if len(parts) == 1 and parts[0]:
        parts = ["linux", *parts]
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise SpecError("", f"not a platform: {quote(text)}: OS/ARCHITECTURE[/VARIANT], as linux/arm64")
    platform: Platform = {"os": parts[0], "architecture": _ALIASES.get(parts[1], parts[1])}
    if len(parts) == 3:
        platform["variant"] = parts[2]
    elif parts[1] in ("armhf", "armel"):
        platform["variant"] = "v7" if parts[1] == "armhf" else "v6"
    return platform


def platform_text(platform: Platform) -> str:
    parts = (platform.get("os", ""), platform.get("architecture", ""), platform.get("variant", ""))
    return "/".join(part for part in parts if part)


def _rank(wanted: Platform, offered: Platform) -> int | None:
    """How well an entry suits, 0 best; None if it does not."""
    if offered.get("os") != wanted.get("os") or offered.get("architecture") != wanted.get("architecture"):
        return None
    architecture = wanted.get("architecture", "")
    want, have = wanted.get("variant", ""), offered.get("variant", "")
    if want == have:
        return 0
    order = _VARIANTS.get(architecture, ())
    if architecture == "arm64" and {want, have} <= {"", "v8"}:
        return 1
    if not want:
        # nobody said which: one without a variant (above), else the newest that we know
        return 1 + order.index(have) if have in order else 99
    if not have:
        return 50
    if want in order and have in order and order.index(have) > order.index(want):
        return 1 + order.index(have)
    return None


def _is_runnable(entry: Descriptor) -> bool:
    """Not an attestation (BuildKit's, with platform unknown/unknown), not an artifact, and of a kind that we know."""
    if entry.get("mediaType", OCI_MANIFEST) not in (*MANIFESTS, *INDEXES) or entry.get("artifactType"):
        return False
    if "vnd.docker.reference.type" in entry.get("annotations", {}):
        return False
    platform = entry.get("platform", {})
    return "unknown" not in (platform.get("os"), platform.get("architecture"))


def select_platform(index: Index, platform: Platform | None = None) -> Descriptor:
    """The entry of an index for a platform (this machine's by default). Raises SpecError that says what there is."""
    wanted = platform or host_platform()
    runnable = [entry for entry in index["manifests"] if _is_runnable(entry)]
    ranked: list[tuple[int, int, Descriptor]] = []
    for i, entry in enumerate(runnable):
        rank = _rank(wanted, entry.get("platform", {}))
        if rank is not None:
            ranked.append((rank, i, entry))
    if ranked:
        return min(ranked, key=lambda row: row[:2])[2]
    unmarked = [entry for entry in runnable if not entry.get("platform")]
    if len(unmarked) == 1:
        return unmarked[0]  # as skopeo writes an index of one image: its configuration will tell
    there = sorted({platform_text(entry["platform"]) for entry in runnable if entry.get("platform")})
    raise SpecError("manifests", f"no image for {platform_text(wanted)}; there is: {', '.join(there) or 'none at all'}")
