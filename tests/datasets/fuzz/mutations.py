"""What can be wrong with the files of a data set. Every function takes its generator; the same seed gives the same."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
from collections.abc import Callable
from random import Random
from typing import Any

from bases import Files, make_tar
from records import record_file

OUTSIDE = "@OUTSIDE@"  # stands for the absolute path of a folder beside the data set
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")

NUMBERS = (
    "NaN", "nan", "inf", "-Infinity", "1e308", "-1e308", "1e309", "1e-320", "-1", "-0", "0", "", "null", "true", " ",
    "1_000", "0x10", "１２", "1,5", "1e", "--1", "2147483648", "4294967297", "18446744073709551616", "99999", "0.5",
    "9" * 50, "9" * 5000, "0." + "3" * 400, "1000000", "999999.5", "1.5.2", "١٢",
)  # fmt: skip
NAMES = (
    "", " ", "a b", " lead", "trail ", "it's", 'quo"te', "new\nline", "tab\tbed", "çé", "画像", "عربي", "😀", "e\u0301",
    "\u202egnp", "\u200b", "a" * 200, "a" * 5000, ".", "..", ".hidden", "-rf", "con", "a\\b", "%2e%2e%2f", "$(id)", "`id`",
    "{0}", "%s", "<b>", "&amp;", "#1", "a;b", "a,b", "\ufeffbom", "\x1b[31m", "\x7f", "x.tar#0+512", "http://[::1",
)  # fmt: skip
PATHS = (
    "../outside/secret.{0}", "../../outside/secret.{0}", OUTSIDE + "/secret.{0}", "file://" + OUTSIDE + "/secret.{0}",
    "a/../../outside/secret.{0}", "..\\outside\\secret.{0}", "./../outside/secret.{0}", "/etc/passwd", "~/secret.{0}",
    "C:\\secret.{0}", "\\\\host\\share\\secret.{0}", "memory://secret.{0}", "zip::" + OUTSIDE + "/secret.{0}", "|id",
    OUTSIDE, "..", "/", ".", "secret.{0}\0.png", "https://127.0.0.1:9/secret.{0}", "/dev/zero", "/proc/self/environ",
)  # fmt: skip
_DEEP, _LONG = "@@DEEP@@", "@@LONG@@"


# ---------------------------------------------------------------------------------------------- bytes


def mangle(rng: Random, data: bytes) -> bytes:
    """Some bytes changed, added or taken away."""
    held = bytearray(data)
    n = len(held)

    def span(most: int = 64) -> slice:
        start = rng.randrange(n + 1)
        return slice(start, min(n, start + rng.randrange(1, most + 1)))

    how = rng.randrange(12)
    if how == 0 and n:
        held[rng.randrange(n)] ^= 1 << rng.randrange(8)
    elif how == 1:
        for _ in range(rng.randrange(1, 20)):
            held[span(1)] = rng.randbytes(1)
    elif how == 2:
        for _ in range(n // 20):
            held[rng.randrange(n)] = rng.randrange(256)
    elif how == 3:
        del held[rng.randrange(n + 1) :]
    elif how == 4:
        del held[: rng.randrange(n + 1)]
    elif how == 5:
        del held[span()]
    elif how == 6:
        at = rng.randrange(n + 1)
        held[at:at] = rng.randbytes(rng.randrange(1, 65))
    elif how == 7:
        at = rng.randrange(n + 1)
        held[at:at] = bytes(held[span(256)]) * rng.choice((1, 2, 50))
    elif how == 8:
        part = span(256)
        held[part] = bytes([rng.choice((0, 0xFF, 0x20))]) * len(held[part])
    elif how == 9:  # a field of the header, most likely
        at = rng.randrange(min(n, 64) + 1)
        wide = rng.choice((">H", "<H", ">I", "<I"))
        value = rng.choice((0, 1, 2, 0x7F, 0xFF, 30000, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 100_000))
        field = struct.pack(wide, value & (0xFFFF if wide[1] == "H" else 0xFFFFFFFF))
        held[at : at + len(field)] = field
    elif how == 10:
        first, second = sorted((rng.randrange(n + 1), rng.randrange(n + 1)))
        held = held[:first] + held[second:] + held[first:second]
    else:
        held = bytearray(rng.choice((b"", b"\0", b"\n", b"\0" * 5000, rng.randbytes(300), bytes(data) * 3)))
    return bytes(held)


def recode(rng: Random, data: bytes) -> bytes:
    """The same text as another program, or no program, would write it."""
    text = data.decode("utf-8", "replace")
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-16-le"),
        lambda: text.encode("utf-32"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + data,
        lambda: text.encode("latin-1", "replace"),
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: data.replace(b"\n", b"\r"),
        lambda: data.replace(b"\n", "\u2028".encode()),
        lambda: data.replace(b"\n", b"\n\n\n"),
        lambda: data.replace(b"\n", b""),
        lambda: data.replace(b" ", b"\0"),
        lambda: data + b"\xff\xfe\xed\xa0\x80",
        lambda: text.upper().encode(),
        lambda: data[: len(data) // 2] + b"\xc3(" + data[len(data) // 2 :],
    )
    return rng.choice(makers)()


# ---------------------------------------------------------------------------------------------- JSON


def mutate_json(rng: Random, data: bytes) -> bytes:
    """One or a few nodes of the tree deleted, replaced, renamed, doubled or made deep."""
    content = json.loads(data)
    room = 3000  # of a list in a list the corpus itself would take gigabytes
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        holder, key = rng.choice(_nodes(content) or [({}, "")])
        value = holder.get(key) if isinstance(holder, dict) else holder[key]
        how = rng.randrange(8)
        if how == 0:
            holder.pop(key, None) if isinstance(holder, dict) else holder.pop(key)
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice(NAMES[:20]) or "x"] = holder.pop(key, None)
        elif how == 2 and isinstance(holder, list):
            count = min(rng.choice((1, 1, 3000)), room)
            holder += [value] * count
            room = max(1, room // count)
        elif how == 3 and isinstance(value, str):
            holder[key] = rng.choice((*NAMES, "\ud800", "\udcff", "\0", _LONG, rng.choice(PATHS).format("png")))
        elif how == 4:
            holder[key] = [value] if rng.randrange(2) else {"a": value}
        else:
            holder[key] = odd_value(rng)
    text = json.dumps(content, ensure_ascii=rng.random() < 0.8, indent=rng.choice((None, 1)))
    text = text.replace(f'"{_DEEP}"', rng.choice(("[{0}]", '{"a":{0}}')).replace("{0}", "[" * 3000 + "]" * 3000))
    if rng.random() < 0.1:
        text = _break_json(rng, text)
    return text.replace(_LONG, "L" * 300_000).encode("utf-8", "surrogatepass")


def odd_value(rng: Random) -> Any:
    """Something of another type, or a number that is none."""
    odd: tuple[Any, ...] = (
        None, True, False, 0, 1, -1, 0.5, 10**12, 10**30, 10**400, -(10**400), 1e308, -1e308, float("nan"), float("inf"),
        float("-inf"), 5e-324, "", "0", "nan", [], {}, [[]], [None], {"id": 1}, [1, 2], [1, 2, 3, 4, 5], _DEEP, "\ud800",
        ["a"], 2**31, 2**63, 2**64, 999_999, 1_000_001, "1e308", [float("nan")] * 4, [1e308, 1e308, 1e308, 1e308],
    )  # fmt: skip
    return rng.choice(odd)


def _nodes(content: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    todo = [content]
    while todo:
        here = todo.pop()
        pairs = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for key, value in pairs:
            found.append((here, key))
            todo.append(value)
    return found


def _break_json(rng: Random, text: str) -> str:
    at = rng.randrange(len(text))
    return rng.choice((
        text[:at] + rng.choice("[]{},:\"'\\/") + text[at:], text.replace("[", "{", 1), text.replace('"', "'"),
        text.replace(",", ",,", 1), text + "}", text + text, text.replace(":", "=", 2), text.replace("]", ",]", 3),
        "// a comment\n" + text, text.replace('"images"', '"images":[],"images"', 1),
    ))  # fmt: skip


# ---------------------------------------------------------------------------------------------- XML


def mutate_xml(rng: Random, data: bytes) -> bytes:
    """Tags and texts dropped, doubled, swapped, renamed; entities; depth."""
    parts = re.findall(r"<[^>]+>|[^<]+", data.decode())
    for _ in range(rng.choice((1, 1, 2, 4))):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        how = rng.randrange(10)
        texts = [k for k, part in enumerate(parts) if not part.startswith("<") and part.strip()]
        if how <= 3 and texts:
            parts[rng.choice(texts)] = rng.choice(
                (rng.choice(NUMBERS), rng.choice(NAMES), rng.choice(PATHS).format("png"))
            )
        elif how == 4:
            parts[i] = ""
        elif how == 5:
            parts[i] *= rng.choice((2, 3, 2000))
        elif how == 6:
            parts[i], parts[j] = parts[j], parts[i]
        elif how == 7:
            parts[i] = re.sub(r"[a-z]+", lambda found: found[0][::-1], parts[i])
        elif how == 8:
            parts[i] = rng.choice((
                "<![CDATA[", "<!--", "<?pi", "&amp;", "&nbsp;", "&#0;", "&#x110000;", "&undefined;", "</a>", "<x:y/>",
                "<a" + " b='c'" * 2000 + "/>", "<a a='1' a='2'/>", "<bndbox/>", "]]>", "\x01", "<object/>", "<name/>",
            ))  # fmt: skip
        else:
            depth = rng.choice((10, 3000, 50_000))
            parts[i] = "<a>" * depth + parts[i] + "</a>" * (depth if rng.randrange(2) else 0)
    text = "".join(parts)
    if rng.random() < 0.25:
        text = rng.choice(PROLOGUES) + text.replace("</name>", "&e;</name>", rng.randrange(3))
    return text.encode("utf-8", "surrogatepass")


PROLOGUES = (
    '<!DOCTYPE a [<!ENTITY e "boom">]>', f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{OUTSIDE}/secret.txt">]>',
    '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">', f'<!DOCTYPE a [<!ENTITY % p SYSTEM "{OUTSIDE}/secret.txt">%p;]>',
    '<!DOCTYPE a [<!ENTITY a "lollollol"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY e "&b;&b;&b;">]>',
    '<?xml version="1.0" encoding="utf-7"?>', '<?xml version="1.0" encoding="nonsense"?>',
    '<?xml version="1.0" encoding="utf-16"?>', '<?xml version="9.9"?>', "\ufeff\ufeff", "garbage ",
    '<?xml version="1.0" encoding="idna"?>', '<?xml version="1.0" encoding="gb2312"?>', "<!DOCTYPE a>",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- text


def mutate_lines(rng: Random, data: bytes, name: str) -> bytes:
    """Cells, words and lines of a CSV, a label file, a list or a yaml."""
    lines = data.decode("utf-8", "replace").split("\n")
    ending = "csv" if name.endswith("csv") else "png"
    for _ in range(rng.choice((1, 1, 1, 2, 6))):
        i = rng.randrange(len(lines))
        cells = re.split(r"([,: ]+)", lines[i])
        at = rng.randrange(0, len(cells), 2)
        how = rng.randrange(13)
        if how <= 2:
            cells[at] = rng.choice(NUMBERS)
        elif how <= 4:
            cells[at] = rng.choice(NAMES)
        elif how == 5:
            cells[at] = rng.choice(PATHS).format(rng.choice((ending, "txt", "jpg")))
        elif how == 6:
            del cells[at : at + 2]
        elif how == 7:
            cells[at] += rng.choice(
                ('"', "'", ",", ";", "\0", "\r", '"""', "\t", "\x1a", "," * 3000, "#", "&a", "*a", "!!x")
            )
        elif how == 8:
            cells.append(rng.choice((",1", " 0.5" * 4, " 0.5" * 60_000, " 0.1 0.1 0.9", ",,,,", " # x")))
        line = "".join(cells)
        lines[i] = line
        if how == 9:
            del lines[i]
            lines = lines or [""]
        elif how == 10:
            most = 10_000_000 // (len(line) + 1) + 1  # what the corpus itself may take
            lines += [line] * min(rng.choice((1, 2, 5000)), most)
        elif how == 11:
            lines[i] = rng.choice(YAML_TRICKS) if name.endswith((".yaml", ".yml")) else line[::-1]
        elif how == 12:
            rng.shuffle(lines)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


YAML_TRICKS = (
    "names: &a [*a, *a]", "a: &a [x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]", "<<: *undefined", "train: !!python/object:os.system id",
    "!!binary aGVsbG8=", "names: !!set {a, b}", "names: {0: a, 2: c}", "names: {0: a, 00: c}", "nc: -1", "nc: 1e9", "nc: 99999",
    "names: [" * 3000, "names:\n" + "".join("- " * k + "a\n" for k in range(40)), "? complex\n: key", "---\nnames: [a]", "\tnames: tab",
    "names: |\n  block\n  text", "%YAML 9.9\n---", "train: [images/train, images/val, nowhere]", "train: {a: b}", "path: ../outside",
    f"path: {OUTSIDE}", "kpt_shape: [17, 3]", "kpt_shape: [1e9, 3]", "splits: [path]", "splits: [a, b]\na: images", "names: ",
    "names: [a, a, a]", "train:", "val: ~", 'names: ["\\ud800", "\\x00", "\\U0010ffff"]', "@bad", "names: [a, [b, c]]", "train: ..",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- tars


def mutate_tar(rng: Random, data: bytes) -> bytes:
    """Members renamed, retyped, dropped, doubled, swapped; their labels; the fields of their headers."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    i = rng.randrange(len(members))
    how = rng.randrange(7)
    if how == 0:
        members[i] = (rng.choice((*NAMES, *PATHS))[:90].format("png").replace("\0", "0"), members[i][1])
    elif how == 1:
        members.pop(i)
    elif how == 2:
        members.insert(rng.randrange(len(members)), members[i])
    elif how == 3:
        rng.shuffle(members)
    elif how <= 5:
        k = rng.choice([k for k, (name, _) in enumerate(members) if name.endswith(".json")])
        members[k] = (members[k][0], mutate_json(rng, members[k][1]))
    if how < 6:
        return make_tar(members)
    held = bytearray(data)
    header = sum(512 + -(-len(body) // 512) * 512 for _, body in members[:i])
    at, field = rng.choice((
        (124, b"77777777777"), (124, b"\x80" + b"\xff" * 11), (124, b"-0000000001"), (124, b"00000000000"),
        (156, rng.choice((b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"L", b"K", b"S", b"\xff"))), (0, b"../../x.png\0"),
        (345, b"../../outside/"), (157, OUTSIDE.encode() + b"/secret.png"), (100, rng.randbytes(20)), (257, bytes(8)),
    ))  # fmt: skip
    held[header + at : header + at + len(field)] = field
    if rng.random() < 0.8:  # a checksum that fits what it says now
        block = held[header : header + 512]
        block[148:156] = b" " * 8
        held[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    return bytes(held)


# ---------------------------------------------------------------------------------------------- TFRecord


def mutate_records(rng: Random, data: bytes) -> bytes:
    """Records spoilt, doubled, dropped or swapped, each with the checksum of what it then is."""
    records, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        records.append(data[at + 12 : at + 12 + length])
        at += length + 16
    for _ in range(rng.choice((1, 1, 2, 5))):
        i = rng.randrange(len(records))
        how = rng.randrange(8)
        if how < 3:
            records[i] = mangle(rng, records[i])
        elif how == 3:  # what is not the image: keys, names, numbers
            start = records[i].find(rng.choice((b"image/object", b"image/width", b"image/filename")))
            records[i] = records[i][:start] + mangle(rng, records[i][start : start + 60]) + records[i][start + 60 :]
        elif how == 4:
            old = rng.choice((b"cat", b"dog", b"img0", b"xmin", b"image/encoded"))
            new = rng.choice((*NAMES, *PATHS)).encode("utf-8", "surrogatepass")
            records[i] = records[i].replace(old, (new * len(old))[: len(old)])
        elif how == 5:
            records.insert(rng.randrange(len(records)), records[i])
        elif how == 6 and len(records) > 1:
            records.pop(i)
        else:
            records[i] = rng.choice((b"", b"\x0a\x00", records[i] * 2, records[i] + b"\x12\x00", rng.randbytes(40)))
    return record_file(records)


# ---------------------------------------------------------------------------------------------- any file


def mutate_structure(rng: Random, name: str, data: bytes) -> bytes:
    """A change that knows the file's format."""
    if name.endswith(".tar"):
        return mutate_tar(rng, data)
    if "record" in name:
        return mutate_records(rng, data)
    if name.endswith(".json"):
        return mutate_json(rng, data)
    if name.endswith(".xml"):
        return mutate_xml(rng, data)
    return mutate_lines(rng, data, name) if not name.endswith(IMAGES) else mangle(rng, data)


def rename_everywhere(rng: Random, files: Files) -> tuple[Files, str]:
    """One image called something odd, in every file that speaks of it, as it would be written there or carelessly."""
    stems = sorted({name.rpartition("/")[2].rpartition(".")[0] for name in files if name.endswith(IMAGES)} or {"img0"})
    old, new = rng.choice(stems), rng.choice([name for name in NAMES if name not in ("", ".", "..")])
    written = new if rng.randrange(2) else json.dumps(new, ensure_ascii=rng.randrange(2) == 0)[1:-1]
    kept = new.replace("/", "_")[:120]
    while len(kept.encode("utf-8")) > 180:
        kept = kept[:-1]
    changed = {}
    for name, data in files.items():
        folder, slash, last = name.rpartition("/")
        last = last.replace(old, kept) if not name.endswith(".tar") else last
        text = name.endswith((*IMAGES, ".tar"))
        changed[f"{folder}{slash}{last}"] = data if text else data.replace(old.encode(), written.encode())
    return changed, f"{old} is called {new[:40]!r}"
