"""An endpoint's folder is read honestly: nothing that an earlier server wrote is believed, no log line is lost or doubled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_toolbox.base.errors import Invalid, NotFound
from ml_toolbox.base.processes import ProcessIdentity, identity
from ml_toolbox.domain.endpoints import EndpointSpec, EndpointState, Variant
from ml_toolbox.ports.endpoints import EndpointRequest
from ml_toolbox.ports.jobs import Owner
from ml_toolbox.runtime import served
from ml_toolbox.runtime.job import read_json, write_json
from ml_toolbox.runtime.served import EndpointLayout

ALIVE = identity()
GONE = ALIVE._replace(start="1")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "mltoolbox.json").write_text("{}")
    return tmp_path / "package"


@pytest.fixture
def layout(tmp_path: Path, package: Path) -> EndpointLayout:
    """One wish, and nothing that serves it yet."""
    layout = EndpointLayout(str(tmp_path / "churn"))
    served.wish(layout, request(package))
    return layout


def request(package: Path) -> EndpointRequest:
    spec = EndpointSpec(name="churn", variants=(Variant(name="v1", package=package.as_uri(), model="churn:1"),))
    return EndpointRequest.of(spec, Owner(install="i", row="r", attempt=1), served.order(spec))


def serving(layout: EndpointLayout, process: ProcessIdentity, **changes: Any) -> None:
    """What a server of this process writes once the wish is in force."""
    wish = read_json(layout.serve)
    state = {
        "ready": True, "url": "http://127.0.0.1:1", "error": "", "revision": wish["revision"], "variants": wish["variants"]
    }  # fmt: skip
    write_json(layout.status, {**state, **changes, "process": str(process)})


def test_it_is_ready_when_the_server_says_so_of_this_wish(layout: EndpointLayout) -> None:
    assert served.observation(layout, None).state is EndpointState.CREATING
    serving(layout, ALIVE)
    status = served.observation(layout, ALIVE)
    assert (status.state, status.url, status.replicas_ready) == (EndpointState.READY, "http://127.0.0.1:1", 1)
    assert [(v.name, v.model, v.weight, v.healthy) for v in status.variants] == [("v1", "churn:1", 100.0, True)]


def test_an_older_wish_in_force_is_shown_with_its_fault(layout: EndpointLayout) -> None:
    serving(layout, ALIVE, revision="before")
    assert served.observation(layout, ALIVE).state is EndpointState.UPDATING
    serving(layout, ALIVE, revision="before", error="v1 cannot be loaded")
    status = served.observation(layout, ALIVE)
    assert (status.state, status.message) == (EndpointState.DEGRADED, "v1 cannot be loaded")


def test_what_an_earlier_server_wrote_is_not_believed(layout: EndpointLayout) -> None:
    serving(layout, GONE)
    assert served.observation(layout, ALIVE).state is EndpointState.CREATING
    assert served.observation(layout, GONE).state is EndpointState.FAILED
    assert not served.is_served(layout, GONE)


def test_a_server_that_could_not_load_its_first_wish_does_not_count_as_serving(layout: EndpointLayout) -> None:
    assert served.is_served(layout, ALIVE), "it has not said anything yet"
    serving(layout, ALIVE, ready=False, url="", error="v1 cannot be loaded")
    assert not served.is_served(layout, ALIVE)


def test_the_same_wish_again_is_not_written_and_a_new_content_is_another_wish(
    layout: EndpointLayout, package: Path
) -> None:
    before = Path(layout.serve).stat().st_ino, read_json(layout.serve)["revision"]
    served.wish(layout, request(package))
    assert (Path(layout.serve).stat().st_ino, read_json(layout.serve)["revision"]) == before
    (package / "mltoolbox.json").write_text('{"another": 1}')
    served.wish(layout, request(package))
    assert read_json(layout.serve)["revision"] != before[1]


def test_a_folder_without_a_package_is_refused(layout: EndpointLayout, package: Path) -> None:
    (package / "mltoolbox.json").unlink()
    with pytest.raises(Invalid, match="is not a folder with a model package"):
        served.wish(layout, request(package))


@pytest.mark.parametrize("package", ["s3://bucket/model", "models/churn", "file://elsewhere/model"])
def test_a_package_elsewhere_is_refused_with_its_address(package: str) -> None:
    spec = EndpointSpec(name="churn", variants=(Variant(name="v1", package=package),))
    assert package in (served.refuses(spec) or "")


def test_a_log_read_in_pieces_keeps_every_line_and_its_time(layout: EndpointLayout) -> None:
    text = "2026-01-02 03:04:05,678 INFO in force\nfrom a library\n2026-01-02 03:04:06,000 INFO serving\nhalf"
    Path(layout.log).write_text(text)
    chunk = served.log_chunk(layout)
    assert [line.text for line in chunk.lines] == text.split("\n")[:3]
    first, library, last = (line.at for line in chunk.lines)
    assert library == first
    assert last - first == pytest.approx(0.322)
    Path(layout.log).write_text(text + " a line\n")
    rest = served.log_chunk(layout, chunk.cursor)
    assert [(line.text, line.at) for line in rest.lines] == [("half a line", last)]
    assert served.log_chunk(layout).lines == chunk.lines + rest.lines


@pytest.mark.parametrize("cursor", ["x", "-", "1@", "@1", "12", "-5@0.0"])
def test_a_cursor_that_no_call_returned_is_refused(layout: EndpointLayout, cursor: str) -> None:
    with pytest.raises(Invalid, match="no cursor"):
        served.log_chunk(layout, cursor)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    absent = EndpointLayout(str(tmp_path / "absent"))
    with pytest.raises(NotFound, match="'absent'"):
        served.observation(absent, None)
    with pytest.raises(NotFound, match="'absent'"):
        served.log_chunk(absent)
