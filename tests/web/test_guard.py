"""Who is served: whoever has the token, at the server's own address, from no other site."""

from __future__ import annotations

import pytest

from tests.support.web_server import HOST, TOKEN, client_of

PORT = HOST.partition(":")[2]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(tmp_path_factory.mktemp("guard") / "files") as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/tabs", "/api", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", "//", f"//{TOKEN}/", "/%00/"])
def test_nothing_is_served_without_the_token(client, path):
    answer = client.get(f"http://{HOST}{path}")
    assert answer.status_code == 403
    assert answer.json()["error"].endswith("open the one that `unseg web` printed")
    assert TOKEN not in answer.text


def test_a_wrong_token_is_refused_before_anything_is_made(client):
    assert client.post(f"http://{HOST}/other/tabs").status_code == 403
    assert client.post(f"http://{HOST}/other/protect", files={"image": b"x"}).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1.evil.example:{PORT}", ""]
)
def test_another_name_for_this_machine_is_refused(client, host):
    """A page of another site may have its own name point to 127.0.0.1 (DNS rebinding)."""
    answer = client.get("", headers={"host": host})
    assert answer.status_code == 403 and answer.json()["error"].startswith("this server answers to 127.0.0.1")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", f"https://{HOST}", "http://127.0.0.1:1", f"http://{HOST}.evil.example"]
)
def test_pages_of_other_sites_are_refused(client, origin):
    answer = client.post("tabs", headers={"origin": origin})
    assert answer.status_code == 403 and "may not use this server" in answer.json()["error"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_fetches_is_refused(client, site):
    assert client.get("api", headers={"sec-fetch-site": site}).status_code == 403


def test_a_link_of_another_page_leads_to_the_page_and_nowhere_else(client):
    """As from a terminal that is a page itself."""
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("", headers=followed).status_code == 200
    assert client.get("api", headers=followed).status_code == 403
    assert client.get("", headers={**followed, "sec-fetch-dest": "iframe"}).status_code == 403
    assert client.get(f"http://{HOST}/other/", headers=followed).status_code == 403


def test_an_invitation_works_once(tmp_path):
    """A browser's command line can be read by others; what stands there is used up."""
    with client_of(tmp_path / "files") as client:
        invitation = client.app.invitation
        answers = [client.get(f"http://{HOST}/{invitation}", follow_redirects=False) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [307, 403]
    assert answers[0].headers["location"] == f"/{TOKEN}/" and invitation != TOKEN


@pytest.mark.parametrize("host", [HOST, f"localhost:{PORT}"])
def test_the_page_itself_is_served(client, host):
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    assert client.get("", headers=headers).status_code == 200
    assert client.post("tabs", headers=headers).status_code == 201


def test_an_address_without_its_last_slash_leads_to_the_page(client):
    answer = client.get(f"http://{HOST}/{TOKEN}", follow_redirects=False)
    assert answer.status_code == 307 and answer.headers["location"] == f"/{TOKEN}/"


@pytest.mark.parametrize("path", ["", "style.css", "app.js", "api", "openapi.json", "nothing", "tabs/none/key"])
def test_every_answer_has_the_headers_that_keep_others_out(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_names_nothing_that_lies_elsewhere(client):
    """Every address in the page's files is relative, but for the names of SVG's own language."""
    from unseg.web.routes import page_files

    files = page_files()
    assert {"index.html", "style.css", "app.js"} <= files.keys()
    for name, (content, _) in files.items():
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, name
        assert "innerHTML" not in text and "eval(" not in text, name
        assert len(text.splitlines()) <= 400, name


def test_an_unknown_place_is_one_line(client):
    answer = client.get("nothing")
    assert answer.status_code == 404 and list(answer.json()) == ["error"]
