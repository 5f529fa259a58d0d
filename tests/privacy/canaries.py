"""Unique values of every class, planted on every path of a run; and a search of every byte left."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import random
from urllib.parse import quote

import httpx2

from tests.privacy.instances import CLASSES
from towerkit.core.types import Model, Response
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower


def planted(seed: int) -> dict[str, tuple[str, str]]:
    """Return a value of each class, and the text that it stands in."""
    r, out = random.Random(seed), {}
    for name, (make, word) in CLASSES.items():
        value = make(r)
        tail = "db.example/x" if name == "URL_PASSWORD" else ""
        out[name] = (value, f"{word}{value}{tail}")
    return out


def prints(value: str) -> set[bytes]:
    """Return what of a value must be in no byte: as it is and as it may be written."""
    core = value.strip()
    line = max(core.split("\n"), key=len)  # of a key in lines, its longest
    data = line.encode()
    forms = {data, quote(line, safe="").encode(), html.escape(line).encode(),
             json.dumps(line)[1:-1].encode(), line.encode("utf-16-le")}  # fmt: skip
    for n, first in ((0, 0), (1, 2), (2, 3)):
        blob = base64.b64encode(b"\0" * n + data)
        forms.add(blob[first : (len(data) + n) // 3 * 4])
    return {form for form in forms if len(form) >= 7}


class Provider(RuntimeError):
    """What an SDK raises: its text repeats the request."""


def live(tower: Tower, texts: list[str], r: random.Random) -> None:
    """Put each text on every path: prompt, answer, pieces, tool, exception, step, HTTP, result."""
    for i, text in enumerate(texts):
        with tower.run("agent", task={"question": text}) as run:
            run.model([{"role": "user", "content": text}])
            list(run.stream([{"role": "user", "content": f"again {text}"}]))
            run.tool(lambda note: {"echo": note}, {"note": text}, idempotent=True, name="echo")
            with run.step(f"look at {text}"), contextlib.suppress(Provider):
                run.tool(_fails, {"note": text}, idempotent=False, name=f"fails{i}")
            _over_http(tower, text)
            run.finish({"answer": text})


def _fails(note):
    raise Provider(f"the provider refused {note}")


def _over_http(tower: Tower, text: str) -> None:
    def echo(request):
        return httpx2.Response(200, json={"said": text, "of": request.content.decode()})

    with httpx2.Client(transport=tower.http_transport(httpx2.MockTransport(echo))) as client:
        client.post(
            f"http://tools.test/v1/look?q={quote(text, safe='')}", json={"text": text},
            headers={"x-api-key": "opaque-header-value-1"},
        )  # fmt: skip


def model(text: str) -> Model:
    """Return a model that repeats what it is asked, its pieces cut anywhere."""

    def complete(request, timeout_s):
        said = str(request.messages[-1]["content"])
        return Response(content=said, finish_reason="stop", model="m")

    def stream(request, timeout_s):
        said = str(request.messages[-1]["content"])
        for at in range(0, len(said), 3):
            yield said[at : at + 3]
        yield Response(content=said, finish_reason="stop", model="m")

    return Model(name="m", provider="test", complete=complete, stream=stream)


def bytes_left(tower: Tower, root) -> list[bytes]:
    """Return every byte of the store: files as they are, and the columns they decode to."""
    packs = tower.store.packs()  # waits until every run is sealed
    out = [path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()]
    out += [str(path.relative_to(root)).encode() for path in root.rglob("*")]
    for pack in packs:
        out += [json.dumps(pack.frame(t).to_dicts(), default=_shown).encode()
                for t in ("spans", "costs", "inputs", "content")]  # fmt: skip
        out += [str(pack.content(d)).encode() for d in pack.frame("content")["digest"]]
    return out


def _shown(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def leaks(seed: int, root, *, capture_tower) -> list[str]:
    """Run once; return the classes of which anything is left."""
    values = planted(seed)
    tower = capture_tower(root)
    live(tower, [text for _, text in values.values()], random.Random(seed))
    everything = b"\n".join(bytes_left(tower, root))
    found = [n for n, (v, _) in values.items() if any(p in everything for p in prints(v))]
    return found + (["header"] if b"opaque-header-value-1" in everything else [])


def tower_at(root, **options) -> Tower:
    """Return a tower whose model repeats what it is told."""
    return Tower(store=root, models=[model("")], policy=Policy(max_steps=10**6), **options)
