"""Every form of the corpus is refused, or proven to stay below the root it was given to.

The proof is not a parser's opinion: each form is used on real directories and a real memory store, and everything around
the root is looked at afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_toolbox.base.errors import Conflict, Invalid, NotFound, ToolboxError
from ml_toolbox.base.ids import nonce
from ml_toolbox.base.uri import Uri, check_key
from ml_toolbox.objects import open_store
from ml_toolbox.ports.objects import CreateOnly, ObjectStore

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "hostile_names.jsonl").read_text().splitlines()]
FORMS: list[str] = [line["text"] for line in CORPUS]
# "%u002e" is no percent-encoding of any standard: a literal name, kept as it is.
LITERAL = [form for form in FORMS if "%u002e" in form and "/.." not in form]
REFUSED_AS_KEYS = {"dot segments", "encoded dots", "encoded dots inside", "NUL and control"}


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every path below ``folder``, with its bytes or where it links to."""
    found: dict[str, bytes | str] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            else:
                found[str(path)] = path.read_bytes() if path.is_file() else ""
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root beside secrets, with links out of it and a loop."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("secret")
    (outside / "passwd").write_text("secret")
    root = tmp_path / "deep" / "er" / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "dirlink").symlink_to(outside)
    (root / "a" / "link").symlink_to(outside)
    (root / "filelink").symlink_to(outside / "x")
    (root / "loop").symlink_to(root)
    return root


def outside_of(root: Path) -> dict[str, bytes | str]:
    everything = root.parents[2]
    return {path: what for path, what in snapshot(everything).items() if not path.startswith(f"{root}/")}


def attempt(action: Callable[[], object]) -> bool:
    """Whether the action went through; every refusal must be one of ours."""
    try:
        action()
    except ToolboxError:
        return True
    return False


def test_the_corpus_is_large_and_without_repetition() -> None:
    assert len(FORMS) >= 300
    assert len(set(FORMS)) == len(FORMS)


def everything_on(store: ObjectStore, form: str) -> bytes:
    """Every call with this key. What could be read through it."""
    seen = b""
    reads: tuple[Callable[[], bytes], ...] = (
        lambda: store.get(form).data,
        lambda: store.get_range(form, 0, 100),
        lambda: b"".join(store.stream(form)),
    )
    for read in reads:
        try:
            seen += read()
        except ToolboxError:
            continue
    for action in (
        lambda: store.put(form, b"written"),
        lambda: store.put(form, b"created", mode=CreateOnly()),
        lambda: store.copy(form, "copied"),
        lambda: store.head(form),
        lambda: list(store.list(form)),
        lambda: store.list_level(form),
        lambda: list(store.list(start_after=form)),
        lambda: store.delete(form),
    ):
        attempt(action)
    return seen


def test_no_key_leads_out_of_a_folder(root: Path) -> None:
    before = outside_of(root)
    store = open_store(root)
    for form in FORMS:
        assert b"secret" not in everything_on(store, form), ascii(form)
    assert outside_of(root) == before


def test_what_a_folder_accepts_is_where_the_key_says(root: Path) -> None:
    store = open_store(root)
    for form in FORMS:
        try:
            store.put(form, b"here")
        except (Invalid, Conflict):
            continue
        assert os.path.realpath(root / form) == str(root / form), ascii(form)
        assert (root / form).read_bytes() == b"here"
        store.delete(form)


def test_no_key_leads_out_of_a_prefix() -> None:
    name = nonce()
    everything = open_store(f"memory://{name}")
    everything.put("other/x", b"secret")
    inside = open_store(f"memory://{name}/some/prefix")
    for form in FORMS:
        assert b"secret" not in everything_on(inside, form), ascii(form)
        try:
            inside.put(form, b"here")
        except Invalid:
            continue
        assert everything.get(f"some/prefix/{form}").data == b"here"
        inside.delete(form)
    assert [meta.key for meta in everything.list() if not meta.key.startswith("some/prefix/")] == ["other/x"]


@pytest.mark.parametrize(
    "base", ["file:///srv/models", "s3://bucket/models", "az://container/models", "memory://m/models"]
)
def test_no_child_leaves_its_uri(base: str) -> None:
    parent, fields = Uri.parse(base), {"uri"}
    for form in FORMS:
        try:
            child = parent / form
        except Invalid as refusal:
            fields.add(refusal.field)
            continue
        assert str(child).startswith(f"{parent}/")
        assert Uri.parse(str(child)) == child, ascii(form)
    assert fields == {"uri"}


@pytest.mark.parametrize(
    "base", ["file:///srv/models/", "s3://bucket/models/", "az://container/models/", "memory://m/models/"]
)
def test_no_text_joined_to_a_uri_leaves_it(base: str) -> None:
    fields = {"uri"}
    for form in FORMS:
        try:
            place = Uri.parse(base + form)
        except Invalid as refusal:
            fields.add(refusal.field)
            continue
        assert f"{place}/".startswith(str(Uri.parse(base)) + "/"), ascii(form)
        assert not {".", ".."} & set(place.key.split("/"))
    assert fields == {"uri"}


def test_parsing_reaches_a_fixed_point_or_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    fields = {"uri"}
    for form in FORMS:
        try:
            place = Uri.parse(form)
        except Invalid as refusal:
            fields.add(refusal.field)
            continue
        assert Uri.parse(str(place)) == place, ascii(form)
        assert str(Uri.parse(str(place))) == str(place)
        assert place.scheme in {"file", "memory", "s3", "az"}
    assert fields == {"uri"}


def test_the_plain_attacks_are_refused_and_not_merely_contained() -> None:
    for line in CORPUS:
        if line["category"] in REFUSED_AS_KEYS and line["text"] not in LITERAL:
            with pytest.raises(Invalid):
                check_key(line["text"])


def test_links_are_refused_by_name(root: Path) -> None:
    store = open_store(root)
    for key in ("link/x", "filelink", "a/link/x", "loop/a", "dirlink/new/deep/x"):
        with pytest.raises((Invalid, NotFound)):
            store.get(key)
        if key != "filelink":
            with pytest.raises(Invalid, match="link"):
                store.put(key, b"")
    assert list(store.list()) == []
    store.put("filelink", b"replaces the link, not what it points to")
    assert (root.parents[2] / "outside" / "x").read_text() == "secret"
