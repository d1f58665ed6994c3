"""Hostile files: how time grows when one doubles, and how much memory a job takes that reads it.

    python tests/benchmarks/bench_hostile.py [--size 1000000]

Prints, for each reader and chunker and each hostile pattern, the processor time at the size and at half of it (the best
of three) and the ratio, whose bar is 2.5 (a time below 0.05 s has none); then the peak memory of a process that reads
one file of each kind, and of its parser process (Linux).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regard.indexers.chunkers import Chunker
from regard.indexers.corpus import html, markdown, pdf, trec
from regard.indexers.corpus.skips import Unreadable
from regard.rag import Document
from regard.rag.parts import part
from regard.rag.text import sentence_spans

sys.path.append(str(Path(__file__).parents[1]))
from pdfs import pdf_of  # beside this folder

HTML = ["<a ", "<a b='", '<a b="x" ', "<a b=", "<a/", "<", "</a ", "<!", "<!--", "<!--x>", "<![CDATA[>", "<![if x>",
        "<?", "&", "&#1", "&a",
        "<b>", "<b>x<br/>", "<b></i>", "<br></p>", "<p>", "<li>", "<td>", "<h1>", "<title>", "<pre>", "<script>",
        "<svg>", "<![", "-- >"]
MARKDOWN = ["[", "![", "[a](", "[a]: b\n", "[a]:\n", "*a_", "**", "`", "\\", "<a ", "<!--", "<?", "> ", ">", "- ",
            "1. ", "- a\n  ", "# [",
            "\n\n# a\n", "a\n===\n", "---\n", "~~~\n", "    ", "\t", "&", "*===\r---"]
TREC = ["<TI>", "<DOCNO>", "<DOCNO><HL>", "<DOCID>", "</TI>", "<TEXT>", "<a", "<a>", "&", "&#1", "<TI></HL>"]
TEXT = ["a", ".", ". ", ".'", "! ", "\n", "\n ", "。", "a. ", "A.B. ", " ", "don't ", "'"]
PDF = ["1 0 0 1 0 0 Tm (a) Tj ", "[", "<<", "(", "q ", "/a ", "BT ", "<", "BI ", "(a) Tj "]


def seconds(work: Callable[[str], object], text: str, most: int = 120) -> float:
    """Processor time; infinity over ``most`` seconds."""
    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(most)
    start = time.process_time()
    try:
        work(text)
    except TimeoutError:
        return float("inf")
    except Unreadable:
        pass
    finally:
        signal.alarm(0)
    return time.process_time() - start


def _trec(text: str) -> Any:
    return trec._document(f"<DOCNO>1</DOCNO>{text}".encode())


def _pdf(text: str) -> Any:
    return pdf.content(pdf_of(f"BT /F1 12 Tf {text}".encode()))


def _chunk(spec: str) -> Callable[[str], object]:
    made = part(Chunker, spec)
    return lambda text: made.chunk(Document("d", text))


KINDS: list[tuple[str, Callable[[str], object], list[str]]] = [
    ("html", html.content, HTML), ("markdown", markdown.headings, MARKDOWN), ("trec", _trec, TREC),
    ("sentences", sentence_spans, TEXT),
    ("sentences:200", _chunk("sentences:200,overlap=40"), TEXT), ("tokens:128", _chunk("tokens:128,overlap=16"), TEXT),
    ("markdown:300", _chunk("markdown:300"), MARKDOWN[:6]), ("pdf", _pdf, PDF),
]

_READ = """
import re, resource, sys, time
from pathlib import Path
from regard.indexers.corpus import parsing, read_corpus

def own():  # the peak that getrusage gives of a process begins with its parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

before, start = own(), time.perf_counter()
skips = []
documents = sum(1 for _ in read_corpus(sys.argv[1], on_skip=skips.append))
parsing.close()
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(documents, len(skips), own() - before, child, round(time.perf_counter() - start, 1))
"""
GOOD = b'{"id":"good","text":"fine"}\n'


def _repeated(unit: bytes, times: int, first: bytes = b"", last: bytes = b"") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with (gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb")) as file:
            file.write(first)
            for start in range(0, times, 100_000):
                file.write(unit * min(100_000, times - start))
            file.write(last)

    return write


FILES: dict[str, Callable[[Path], None]] = {
    "300 MB line.jsonl": _repeated(b"x", 300_000_000, last=b"\n" + GOOD),
    "2 GB of NULs.jsonl.gz": _repeated(bytes(1000), 2_000_000, GOOD),
    "empty objects.jsonl": _repeated(b"{},", 5_200_000, b'{"id":"good","text":"fine","v":[', b"0]}\n"),
    "metadata of lists.jsonl": _repeated(b"[],", 5_200_000, b'{"id":"good","text":"fine","metadata":{"v":[', b"0]}}\n"),
    "titles.trec": _repeated(b"<TI>", 3_900_000, b"<DOC><DOCNO>1</DOCNO>", b"</DOC>\n<DOC><DOCNO>2</DOCNO>x</DOC>\n"),
    "60 MB tags.html": _repeated(b"<a ", 20_000_000), "60 MB elements.html": _repeated(b"<b>x", 15_000_000),
    "60 MB quotes.md": _repeated(b"> ", 30_000_000), "wide.txt": _repeated(b"y", 60_000_000, last="😀".encode()),
    "word.txt": _repeated(b"y", 15_900_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000,
                        help="characters of the larger document (of a PDF: a tenth)")
    parser.add_argument("--memory", action="store_true", help="only the memory")
    arguments = parser.parse_args()
    if not arguments.memory:
        show_growth(arguments.size)
    show_memory()


def show_growth(size: int) -> None:
    print("| reader | worst ratio per doubling | of | its seconds | slowest | its seconds |\n| --- | --- | --- | --- | "
          "--- | --- |")
    for name, work, units in KINDS:
        n = size // 10 if name == "pdf" else size
        times = {unit: [min(seconds(work, unit * (m // len(unit))) for _ in range(3)) for m in (n // 2, n)]
                 for unit in units}
        ratios = {unit: large / small for unit, (small, large) in times.items() if large > 0.05}
        worst, slowest = max(ratios, key=ratios.__getitem__, default=units[0]), max(times,
                                                                                    key=lambda unit: times[unit][1])
        print(f"| {name} ({n:,}) | {ratios.get(worst, 0):.2f} | `{json.dumps(worst)}` | {times[worst][1]:.2f} | "
              f"`{json.dumps(slowest)}` "
              f"| {times[slowest][1]:.2f} |", flush=True)


def show_memory() -> None:
    print("\n| file | documents | skips | MB over the idle process | MB of the parser process | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            make(path)
            out = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True,
                                 env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path[1:]))})
        documents, skips, own, child, took = out.stdout.split()
        print(f"| {name} | {documents} | {skips} | {int(own) // 1000} | {int(child) // 1000} | {took} |", flush=True)


if __name__ == "__main__":
    main()
