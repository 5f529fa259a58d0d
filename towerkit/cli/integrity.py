"""`towerkit pack verify | lint | redact | keygen`: whether packs hold, and are evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from towerkit.cli.base import complain, emit, json_option, open_store, say, store_option
from towerkit.cli.packs import pack
from towerkit.core.errors import TowerError
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    from towerkit.packs.reader import Pack, Verified
    from towerkit.packs.redaction import Removal
    from towerkit.packs.store import Store


@pack.command("verify")
@click.argument("names", nargs=-1, metavar="[RUN|FOLDER]…")
@click.option(
    "--key", "keys", multiple=True, metavar="PUBLIC",
    help="A public key, or a file of one: each pack must be signed by one of these.",
)  # fmt: skip
@click.option(
    "--allow-unsigned-redactions", "unsigned", is_flag=True,
    help="With --key: take rows that were redacted by nobody knows whom.",
)  # fmt: skip
@store_option
@json_option
def pack_verify(
    names: tuple[str, ...], keys: tuple[str, ...], unsigned: bool, store: str | None, as_json: bool
) -> None:
    """Check every file, row and root of packs (default: all); exit 1 when one does not hold.

    With a key, a pack that is not signed with it does not hold, nor does one with redactions that
    are not.
    """
    from towerkit.core.errors import UsageError
    from towerkit.packs.signing import public_key_of

    if unsigned and not keys:
        raise UsageError("--allow-unsigned-redactions goes with --key: without one none is checked")
    target, trusted = open_store(store), [public_key_of(k) for k in keys]
    problems: dict[str, str] = {} if names else target.oddities()
    held: dict[str, Verified] = {}
    for one in _meant(target, names):
        where = str(one if isinstance(one, Path) else one.folder)
        try:
            held[where] = _verified(target, one, trusted, unsigned=unsigned)
        except TowerError as error:
            problems[where] = str(error)
    if as_json:
        emit({"verified": len(held), "problems": problems, "packs": held})
    else:
        for where, problem in problems.items():
            complain(f"broken: {where}: {problem}")
        _say_redacted(held)
        say(f"[verify] {len(held)} of {len(held) + len(problems)} packs hold{_signed(held)}")
    if problems:
        sys.exit(1)


def _verified(store: Store, one: Path | Pack, keys: list[bytes], *, unsigned: bool) -> Verified:
    from towerkit.core.errors import PackError
    from towerkit.packs.reader import open_pack

    if not isinstance(one, Path):
        return one.verify(keys, allow_unsigned_redactions=unsigned)
    found = open_pack(one)
    misplaced = store.misplaced(found)
    if misplaced:
        raise PackError(misplaced)
    return found.verify(keys, allow_unsigned_redactions=unsigned)


def _say_redacted(held: dict[str, Verified]) -> None:
    for folder, verified in held.items():
        if verified.redacted:
            rows = ", ".join(f"{r.table}[{r.row}]" for r in verified.redacted)
            by = {"none": "not signed", "not checked": "signature not checked"}
            said = by.get(verified.redaction, "signed")
            say(
                f"redacted: {folder}: {len(verified.redacted)} rows redacted ({said}), "
                f"no evidence of what they said: {safe_text(rows, limit=2000)}"
            )


def _signed(held: dict[str, Verified]) -> str:
    unchecked = sum(v.signature == "not checked" for v in held.values())
    if unchecked:
        return f"; {unchecked} are signed, the signature was not checked: give --key"
    checked = sum(v.signature == "checked" for v in held.values())
    return f"; {checked} signatures checked" if checked else ""


@pack.command("lint")
@click.argument("selection", default="", metavar="[SELECTION]")
@store_option
@json_option
def pack_lint(selection: str, store: str | None, as_json: bool) -> None:
    """Say which packs are evidence and why others are not; exit 1 when one is not."""
    from towerkit.packs.admissible import reasons

    found = {p.run_id: reasons(p) for p in open_store(store).select(selection)}
    bad = {run: why for run, why in found.items() if why}
    if as_json:
        emit({"packs": len(found), "inadmissible": bad})
    else:
        for run, why in found.items():
            say(f"{run} {'inadmissible' if why else 'admissible'}")
            for reason in why:
                say(f"  {safe_text(reason, limit=400)}")
        say(f"[lint] {len(found) - len(bad)} of {len(found)} packs are admissible")
    if bad:
        sys.exit(1)


@pack.command("redact")
@click.argument("names", nargs=-1, metavar="[RUN|FOLDER|SELECTION]…")
@click.option("--value", required=True, metavar="TEXT", help="What to remove; - reads it from "
              "standard input, so that it is in no list of processes.")  # fmt: skip
@click.option("--class", "kind", default="REDACTED", metavar="NAME", show_default=True,
              help="What stands in its place: <NAME:removed>.")  # fmt: skip
@store_option
@json_option
def pack_redact(
    names: tuple[str, ...], value: str, kind: str, store: str | None, as_json: bool
) -> None:
    """Remove a value from sealed packs (default: all); they verify as before, and say so."""
    from towerkit.core.env import SystemEnv
    from towerkit.lake import LakeStore, redact_in_lake, replace_changed
    from towerkit.packs.redaction import Removal, check_removal

    target, env = open_store(store), SystemEnv()
    removal = Removal(
        value=sys.stdin.read().rstrip("\n") if value == "-" else value, name=kind,
        at_unix_ns=env.wall_ns(), salts=lambda n: env.secret_bytes(n, purpose="salts"),
    )  # fmt: skip
    check_removal(removal)
    meant = _meant(target, names)
    changed, problems = _redact_folders(target, [m for m in meant if isinstance(m, Path)], removal)
    if isinstance(target, LakeStore):
        redacted = {Path(f).name: Path(f) for f in changed}
        problems |= replace_changed(target.lake, redacted).problems
        runs = {m.run_id for m in meant if not isinstance(m, Path)}
        done = redact_in_lake(
            target.lake, removal, lambda p: p.run_id in runs, beside=target.root,
            signer=target.signer,
        )  # fmt: skip
        changed |= done.runs
        problems |= done.problems
    if as_json:
        emit({"packs": len(meant), "redacted": changed, "problems": problems})
    else:
        for problem in problems.values():
            complain(f"not redacted: {problem}")
        for where, rows in changed.items():
            say(f"{where} " + " ".join(f"{n}={c}" for n, c in rows.items()))
        say(f"[redact] {len(changed)} of {len(meant)} packs held it, and no longer do")
    if problems:
        sys.exit(1)


def _redact_folders(
    store: Store, folders: list[Path], removal: Removal
) -> tuple[dict[str, Any], dict[str, str]]:
    from towerkit.packs.redaction import redact

    changed: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for folder in folders:
        try:
            rows = redact(folder, removal, signer=store.signer)
        except TowerError as error:
            problems[str(folder)] = str(error)
        else:
            if rows:
                changed[str(folder)] = rows
    return changed, problems


def _meant(store: Store, names: tuple[str, ...]) -> list[Path | Pack]:
    """Return the packs that are named (all, if none is): folders, and runs of the lake alone."""
    from towerkit.core.errors import SelectionError
    from towerkit.lake import LakeStore

    if not names:
        folders = store.folders()
        return [*folders, *(store.beyond(folders) if isinstance(store, LakeStore) else ())]
    found: dict[Path, Path | Pack] = {}
    for name in names:
        # A selection has a `=`, and a run id or a folder that is there has not.
        if "=" in name and not Path(name).is_dir():
            chosen = store.select(name)
            found |= {p.folder: p.folder if p.folder.is_dir() else p for p in chosen}
            continue
        try:
            folder = store.folder(name)
            found[folder] = folder
        except SelectionError:
            pack = store.pack(name)
            found[pack.folder] = pack
    return list(found.values())


@pack.command("keygen")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def pack_keygen(path: Path, as_json: bool) -> None:
    """Write a new private key to FILE, readable by you only, and print its public key."""
    from towerkit.packs.signing import make_key

    public = make_key(path)
    if as_json:
        emit({"file": str(path), "public_key": public})
    else:
        say(public)
