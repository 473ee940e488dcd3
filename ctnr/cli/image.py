# SPDX-License-Identifier: Apache-2.0
"""`ctnr image ...`, and docker's names for the same: pull, push, images, save, load, tag, rmi. Cold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctnr.cli.args import CHOICE, FLAG, NUMBER, VALUE, Command, UsageError
from ctnr.cli.listing import table
from ctnr.cli.login import REGISTRY, registry_options
from ctnr.cli.output import complain, out
from ctnr.cli.progress import Bars, age_text, size_text
from ctnr.engine import images as engine
from ctnr.errors import CtnrError
from ctnr.image.reference import parse
from ctnr.image.store import Image, Store
from ctnr.jsonio import dumps
from ctnr.log import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler

_STORE: Option = (VALUE, "store-dir", "", "DIR", "the store (default: $CTNR_STORE, /var/lib/ctnr, ~/.local/share/ctnr)")
_QUIET: Option = (FLAG, "quiet", "q", "", "say nothing but the result")
_PLATFORM: Sequence[Option] = (
    (VALUE, "platform", "", "OS/ARCH[/VARIANT]", "of an index, the image for this platform (default: this machine's)"),
    (FLAG, "all-platforms", "", "", "the index with the images for all platforms"),
)


def _store(parsed: Parsed) -> Store:
    return engine.open_store(parsed.value("store-dir"))


# --- copying


def pull(g: Globals, parsed: Parsed) -> int:
    return _pull(parsed, parsed.args[0], None)


def import_(g: Globals, parsed: Parsed) -> int:
    return _pull(parsed, parsed.args[0], parsed.args[1] if len(parsed.args) > 1 else None)


def _pull(parsed: Parsed, text: str, name: str | None) -> int:
    with Bars(parsed.flag("quiet")) as bars:
        image = engine.pull(
            text,
            store=_store(parsed),
            name=name,
            platform=parsed.value("platform"),
            all_platforms=parsed.flag("all-platforms"),
            options=registry_options(parsed),
            progress=bars,
        )
    out(f"{image.id or image.descriptor['digest']}\n")
    return 0


def push(g: Globals, parsed: Parsed) -> int:
    destination = parsed.args[1] if len(parsed.args) > 1 else None
    with Bars(parsed.flag("quiet")) as bars:
        written = engine.push(
            parsed.args[0], destination, store=_store(parsed), options=registry_options(parsed), progress=bars
        )
    out(f"{written['digest']}\n")
    return 0


def save(g: Globals, parsed: Parsed) -> int:
    path = parsed.value("output")
    if path is None:
        raise UsageError("--output FILE is missing: an archive is not for a terminal")
    with Bars(parsed.flag("quiet")) as bars:
        engine.save(parsed.args, path, store=_store(parsed), progress=bars)
    return 0


def load(g: Globals, parsed: Parsed) -> int:
    path = parsed.value("input")
    if path is None:
        raise UsageError("--input FILE is missing")
    with Bars(parsed.flag("quiet")) as bars:
        found = engine.load(path, store=_store(parsed), progress=bars)
    out("".join(f"{image.reference.familiar()}\n" for image in found))
    return 0


# --- looking


def list_(g: Globals, parsed: Parsed) -> int:
    from time import time

    store = _store(parsed)
    images = store.images()
    if parsed.args:
        wanted = parse(parsed.args[0])
        images = [i for i in images if i.reference.name == wanted.name and wanted.tag in ("", i.reference.tag)]
    if parsed.flag("quiet"):
        out("".join(f"{id}\n" for id in dict.fromkeys(image.short_id for image in images)))
        return 0
    if parsed.value("format") == "json":
        out(dumps([_json(image) for image in images], 2) + "\n")
        return 0
    rows = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]]
    now = time()
    for image in images:
        name = image.reference.familiar().partition("@")[0].removesuffix(f":{image.reference.tag}")
        # names of a store that is somebody else's may hold anything
        row = (escape(name), escape(image.reference.tag) or "<none>", image.short_id or "<none>", _age(image, now))
        rows.append([*row, size_text(image.size)])
    out(table(rows))
    return 0


def _age(image: Image, now: float) -> str:
    from datetime import UTC, datetime

    if not image.created:
        return "unknown"
    try:
        created = datetime.fromisoformat(image.created)
    except ValueError:
        return "unknown"
    if created.tzinfo is None:
        created = created.replace(tzinfo=UTC)
    return age_text(max(0.0, now - created.timestamp()))


def _json(image: Image) -> dict[str, object]:
    return {
        "Id": image.id,
        "Name": str(image.reference),
        "Repository": image.reference.name,
        "Tag": image.reference.tag,
        "Digest": image.descriptor["digest"],
        "Created": image.created,
        "Size": image.size,
    }


def inspect(g: Globals, parsed: Parsed) -> int:
    store = _store(parsed)
    found = []
    for name in parsed.args:
        image = store.find(name)
        contents = store.contents(image.descriptor)
        names = [str(i.reference) for i in store.images() if i.id == contents.id and i.reference.tag]
        config = contents.config
        found.append(
            {
                "Id": contents.id,
                "Digest": contents.descriptor["digest"],
                "RepoTags": names,
                "Created": config.get("created", ""),
                "Author": config.get("author", ""),
                "Architecture": config.get("architecture", ""),
                "Os": config.get("os", ""),
                "Variant": config.get("variant", ""),
                "Config": config.get("config", {}),
                "RootFS": {"Type": "layers", "Layers": config["rootfs"]["diff_ids"]},
                "Size": image.size,
                "ManifestType": contents.descriptor.get("mediaType", ""),
            }
        )
    out(dumps(found, 2) + "\n")
    return 0


def cat_config(g: Globals, parsed: Parsed) -> int:
    store = _store(parsed)
    out(
        store.contents(store.find(parsed.args[0]).descriptor).config_data.decode("utf-8", "replace").rstrip("\n") + "\n"
    )
    return 0


def history(g: Globals, parsed: Parsed) -> int:
    store = _store(parsed)
    contents = store.contents(store.find(parsed.args[0]).descriptor)
    sizes = iter([layer["size"] for layer in contents.manifest["layers"]])
    rows = []
    for entry in contents.config.get("history", []):
        size = 0 if entry.get("empty_layer") else next(sizes, 0)
        by = " ".join(str(entry.get("created_by", "")).split())
        if not parsed.flag("no-trunc") and len(by) > 60:
            by = by[:57] + "..."
        rows.append([str(entry.get("created", "")), size_text(size), by, str(entry.get("comment", ""))])
    out(table([["CREATED", "SIZE", "CREATED BY", "COMMENT"], *([escape(cell) for cell in row] for row in rows[::-1])]))
    return 0


# --- changing


def tag(g: Globals, parsed: Parsed) -> int:
    store = _store(parsed)
    image = store.find(parsed.args[0])
    for name in parsed.args[1:]:
        store.tag(image, parse(name))
    return 0


def untag(g: Globals, parsed: Parsed) -> int:
    store = _store(parsed)
    for name in parsed.args:
        if not store.untag(parse(name).tagged()):
            store.find(name)  # says what there is
            raise CtnrError(f"{name}: is no name of an image")
    return 0


def remove(g: Globals, parsed: Parsed) -> int:
    """A name goes; with the last one the image does, as docker has it."""
    from ctnr.image.gc import collect

    store = _store(parsed)
    for name in parsed.args:
        image = store.find(name)
        by_id = image.id.partition(":")[2].startswith(name.removeprefix("sha256:"))
        names = [i for i in store.images() if i.descriptor["digest"] == image.descriptor["digest"] and i.reference.tag]
        if by_id and len(names) > 1 and not parsed.flag("force"):
            raise CtnrError(
                f"{name}: has {len(names)} names: {', '.join(i.reference.familiar() for i in names)}"
                " (--force removes all of them)"
            )
        if not by_id and len(names) > 1:
            store.untag(image.reference)
            out(f"untagged: {image.reference.familiar()}\n")
            continue
        for gone in store.remove(image):
            if gone.tag:
                out(f"untagged: {gone.familiar()}\n")
        out(f"deleted: {image.id or image.descriptor['digest']}\n")
    collect(store)
    return 0


def gc(g: Globals, parsed: Parsed) -> int:
    from ctnr.image.gc import gc as collect

    ttl, ref_ttl = (_duration(parsed.value(name), f"--{name}") for name in ("ttl", "ref-ttl"))
    most = parsed.number("max") if "max" in parsed.options else None
    done = collect(_store(parsed), ttl=ttl, ref_ttl=ref_ttl, max=most)
    for name in done.untagged:
        out(f"untagged: {name}\n")
    for id in done.removed:
        out(f"deleted: {id}\n")
    complain(f"freed {size_text(done.bytes)} in {done.blobs} blobs")
    return 0


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _duration(text: str | None, option: str) -> float | None:
    """90s, 30m, 12h, 7d, 1h30m; None for None. Raises UsageError."""
    if text is None:
        return None
    total, number = 0, ""
    for c in text:
        if c.isascii() and c.isdigit():
            number += c
        elif c in _UNITS and number:
            total += int(number) * _UNITS[c]
            number = ""
        else:
            break
    else:
        if text and not number:
            return float(total)
    raise UsageError(f"{option} is a duration such as 30m, 12h or 7d, not {text!r}")


def fsck(g: Globals, parsed: Parsed) -> int:
    from ctnr.image.gc import fsck as check

    faults = check(_store(parsed), parsed.flag("repair"))
    out("".join(f"{fault}\n" for fault in faults))
    if faults and not parsed.flag("repair"):
        raise CtnrError(
            f"the store has {len(faults)} fault{'s' if len(faults) > 1 else ''} (--repair removes what is damaged)"
        )
    return 0


_LIST_OPTIONS: Sequence[Option] = (
    (CHOICE, "format", "", "table|json", "how (default: table)"),
    (FLAG, "quiet", "q", "", "only ids"),
    _STORE,
)
_NAME = "IMAGE is a name, an id or its beginning, or a digest."
_PLACES = "docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME] or dir:DIR"

_IMAGE: dict[str, tuple[Command, Handler]] = {
    "pull": (
        Command(
            "image pull",
            "IMAGE",
            "copy an image into the store",
            (*_PLATFORM, *REGISTRY, _QUIET, _STORE),
            f"IMAGE is a name in a registry, as docker has them, or {_PLACES}.",
        ),
        pull,
    ),
    "push": (
        Command(
            "image push",
            "IMAGE [DESTINATION]",
            "copy an image of the store to a registry",
            (*REGISTRY, _QUIET, _STORE),
            f"DESTINATION is a name in a registry, or {_PLACES}. {_NAME}",
        ),
        push,
    ),
    "import": (
        Command(
            "image import",
            "SOURCE [NAME]",
            "copy an image into the store, under another name if one is given",
            (*_PLATFORM, *REGISTRY, _QUIET, _STORE),
            f"SOURCE is {_PLACES}.",
        ),
        import_,
    ),
    "export": (
        Command(
            "image export",
            "IMAGE DESTINATION",
            "copy an image out of the store",
            (*REGISTRY, _QUIET, _STORE),
            f"DESTINATION is {_PLACES}. {_NAME}",
        ),
        push,
    ),
    "save": (
        Command(
            "image save",
            "IMAGE...",
            "write an image to an archive that docker load and podman load read",
            ((VALUE, "output", "o", "FILE", "the archive"), _QUIET, _STORE),
            _NAME,
        ),
        save,
    ),
    "load": (
        Command(
            "image load",
            "",
            "read the images of an archive by docker save, podman save or skopeo",
            ((VALUE, "input", "i", "FILE", "the archive"), _QUIET, _STORE),
        ),
        load,
    ),
    "list": (Command("image list", "[NAME]", "list the images of the store", _LIST_OPTIONS), list_),
    "inspect": (Command("image inspect", "IMAGE...", "show all about images, as JSON", (_STORE,), _NAME), inspect),
    "history": (
        Command(
            "image history",
            "IMAGE",
            "show the steps an image was made by",
            ((FLAG, "no-trunc", "", "", "do not shorten them"), _STORE),
            _NAME,
        ),
        history,
    ),
    "cat-config": (
        Command("image cat-config", "IMAGE", "show an image's configuration as it is", (_STORE,), _NAME),
        cat_config,
    ),
    "tag": (Command("image tag", "IMAGE NAME...", "give an image more names", (_STORE,), _NAME), tag),
    "untag": (Command("image untag", "NAME...", "take names away; the image stays", (_STORE,)), untag),
    "rm": (
        Command(
            "image rm",
            "IMAGE...",
            "remove names, and images with their last name",
            ((FLAG, "force", "f", "", "given an id: with all its names"), _STORE),
            _NAME,
        ),
        remove,
    ),
    "gc": (
        Command(
            "image gc",
            "",
            "remove what no image needs, and images that nobody uses",
            (
                (VALUE, "ttl", "t", "DURATION", "nameless images not used for so long go (default: none)"),
                (VALUE, "ref-ttl", "r", "DURATION", "names not used for so long go (default: none)"),
                (NUMBER, "max", "m", "N", "of each repository only the N latest names stay"),
                _STORE,
            ),
            "DURATION is a number of s, m, h, d or w: 30m, 12h, 7d.",
        ),
        gc,
    ),
    "fsck": (
        Command(
            "image fsck",
            "",
            "check every blob and every name of the store",
            ((FLAG, "repair", "", "", "remove what is damaged, to be pulled again"), _STORE),
        ),
        fsck,
    ),
}
# one name for one thing: where docker's differs, it is the same command
_IMAGE |= {"ls": _IMAGE["list"], "remove": _IMAGE["rm"], "prune": _IMAGE["gc"]}


def _alias(verb: str, name: str) -> tuple[Command, Handler]:
    command, handler = _IMAGE[name]
    return (
        Command(verb, command.positionals, command.summary, command.options, command.text),
        handler,
    )


COMMANDS: dict[str, tuple[Command, Handler]] = {
    **{verb: _alias(verb, verb) for verb in ("pull", "push", "save", "load", "tag", "history")},
    "images": _alias("images", "list"),
    "rmi": _alias("rmi", "rm"),
}


def find(words: Sequence[str]) -> tuple[Command, Handler]:
    """The command `image WORD`. Raises UsageError."""
    if not words or words[0] not in _IMAGE:
        known = ", ".join(sorted(_IMAGE))
        raise UsageError(
            f"image {words[0]!r} is unknown: there are {known}" if words else f"image needs a word: {known}"
        )
    return _IMAGE[words[0]]


GROUP = Command(
    "image",
    "COMMAND [ARGS...]",
    "images and their store",
    (),
    "`ctnr image COMMAND --help` says what a command takes.",
    False,
)


def group() -> list[Command]:
    """All `image` commands, each once, for the help."""
    return sorted({id(command): command for command, _ in _IMAGE.values()}.values(), key=lambda command: command.name)
