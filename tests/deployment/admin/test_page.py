"""The status page, in a real browser."""

import json
import re
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from admin_port import Admin, Router, Scaler
from browser import Tab, open_tab
from grpo_gym.deployment.admin.page import CONTENT_SECURITY_POLICY, PAGE

PAYLOADS = (
    "<img src=x onerror=\"document.title='attacked'\">",
    "</script><script>document.title='attacked'</script>",
    "<svg onload=\"document.title='attacked'\">",
    '"><style>*{display:none}</style>',
)


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as tab:
        yield tab


def cells(tab: Tab, section: str) -> list[list[str]]:
    rows = f"[...document.querySelectorAll('#{section} tbody tr')]"
    found = tab.evaluate(f"{rows}.map(row => [...row.cells].map(cell => cell.innerText.trim()))")
    return [[text.replace("\xa0", " ") for text in row] for row in found]


def facts(tab: Tab) -> dict[str, str]:
    boxes = "[...document.querySelectorAll('#facts div')]"
    pairs = tab.evaluate(
        f"{boxes}.map(box => [box.children[0].innerText, box.children[1].innerText])"
    )
    return {label: text.replace("\xa0", " ") for label, text in pairs}


def test_it_shows_the_endpoints_and_follows_them(tab: Tab, admin: Admin, router: Router) -> None:
    first, second = router.endpoints
    observer = router.observers[0]
    for number in range(1, 201):
        observer.on_pick(first, "policy")
        observer.on_finish(first, "policy", number > 3, number / 2)
    router.counts |= {"finished": 200, "errors": 3}
    router.set(first, share=0.75, in_flight=12)
    router.set(second, share=0.25, healthy=False, age_s=300.0)
    tab.show(admin.url)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 2")
    assert cells(tab, "endpoints") == [
        [first, "● healthy", "75 %", "12", "50", "99", "200", "3", "now"],
        [second, "✕ unhealthy", "25 %", "2", "–", "–", "0", "0", "5 min ago"],
    ]
    assert tab.evaluate("document.querySelector('h1').innerText") == "pretrained:router, shadow"
    assert facts(tab)["Errors"] == "3 (1.5 %)"
    assert tab.evaluate("document.querySelector('#endpoints meter').value") == 0.75
    assert not tab.evaluate("document.getElementById('problem').checkVisibility()")

    router.set(second, ejected=True)
    router.set(first, healthy=False)
    router.endpoints["10.0.0.3:80"] = router.endpoints.pop(first)
    router.guard.promote("looks good")
    tab.wait_for("document.title === 'grpo-gym: pretrained:router, gradual, 10\\u00a0%'")
    assert [row[:2] for row in cells(tab, "endpoints")] == [
        [second, "▲ ejected"],
        [first, "✕ unhealthy"],
    ]
    (change,) = cells(tab, "transitions")
    assert change[1:] == ["gradual, 10 %", "shadow", "operator", "looks good"]
    problem = tab.evaluate("document.getElementById('problem').innerText")
    assert problem == "Not ready: no endpoint is healthy"

    router.remove(second)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 1")
    assert tab.complaints == []


def test_names_are_text_whatever_they_are(tab: Tab, open_admin: Callable[..., Admin]) -> None:
    router = Router(PAYLOADS)
    router.policy = PAYLOADS[0]
    router.guard.promote(PAYLOADS[1])
    router.guard.set_mode("shadow", PAYLOADS[2])
    tab.show(open_admin(router).url)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 4")
    assert [row[0] for row in cells(tab, "endpoints")] == list(PAYLOADS)
    assert [row[-1] for row in cells(tab, "transitions")] == [PAYLOADS[2], PAYLOADS[1]]
    counts = tab.evaluate(
        "['img', 'svg', 'script', 'style'].map(tag => document.getElementsByTagName(tag).length)"
    )
    assert counts == [0, 0, 1, 1]
    assert tab.evaluate("document.title") == f"grpo-gym: {PAYLOADS[0]}, shadow"
    assert tab.complaints == []


def test_the_browser_runs_nothing_but_the_page(tab: Tab, admin: Admin) -> None:
    answer = admin.get("/")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert answer.text == PAGE
    tab.show(admin.url)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 2")
    # If markup got in all the same, its code would not run.
    tab.evaluate(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(PAYLOADS[2])})")
    tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'x = 1'}))"
    )
    tab.wait_for("document.getElementsByTagName('svg').length === 1")
    assert tab.evaluate("document.title") != "attacked"
    assert tab.evaluate("typeof x") == "undefined"
    assert len(tab.complaints) == 2
    assert all("Content Security Policy" in complaint for complaint in tab.complaints)


def test_nothing_comes_from_elsewhere() -> None:
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", PAGE) == [
        "data:,",
        "/status",
        "/status",
        "/metrics",
        "/health",
    ]
    assert not re.search(r"https?:|@import|url\(|innerHTML|outerHTML|insertAdjacent", PAGE)
    assert len(PAGE.encode()) < 16_384


def test_a_scaler_has_a_page_without_endpoints(tab: Tab, open_admin: Callable[..., Admin]) -> None:
    tab.show(open_admin(Scaler()).url)
    tab.wait_for("document.querySelectorAll('#facts div').length > 0")
    shown = facts(tab)
    assert (shown["Replicas"], shown["Target"], shown["Decisions"]) == ("7", "–", "12")
    assert shown["Newest metrics"] == "15 s ago"
    assert not tab.evaluate("document.getElementById('endpoints').checkVisibility()")
    assert tab.complaints == []


def test_it_says_when_the_service_does_not_answer(
    tab: Tab, open_admin: Callable[..., Admin], router: Router
) -> None:
    def fail() -> None:
        raise RuntimeError("it broke")

    tab.show(open_admin(router).url)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 2")
    router.before_status = fail
    tab.wait_for("document.getElementById('problem').checkVisibility()")
    problem = tab.evaluate("document.getElementById('problem').innerText")
    assert problem == "No answer: RuntimeError: it broke. What follows may be old."
    # And goes on as soon as it does.
    router.before_status = lambda: None
    tab.wait_for("!document.getElementById('problem').checkVisibility()")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_it_fits_every_screen(tab: Tab, open_admin: Callable[..., Admin], width: int) -> None:
    router = Router(("a-backend-with-a-long-name.production.svc.cluster.local:8080", "b:80"))
    router.guard.promote("a reason of several lines on a telephone, and one long word: " + 80 * "x")
    tab.show(open_admin(router).url, width)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 2")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # On a telephone no table needs to be moved, and each value has its column's name beside it.
    if width < 720:
        tables = "[...document.querySelectorAll('.scroll')]"
        assert tab.evaluate(f"{tables}.every(each => each.scrollWidth <= each.clientWidth)")
    label = (
        "getComputedStyle(document.querySelectorAll('#endpoints tbody td')[4], '::before').content"
    )
    assert (tab.evaluate(label) == '"p50, ms"') == (width < 720)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_background(
    tab: Tab, open_admin: Callable[..., Admin], theme: str
) -> None:
    router = Router(("a:80", "b:80", "c:80"))
    router.set("b:80", healthy=False)
    router.set("c:80", ejected=True)
    router.endpoints["a:80"] = router.endpoints.pop("a:80")
    admin = open_admin(router)
    admin.server.drain()
    tab.show(admin.url, theme=theme)
    tab.wait_for("document.querySelectorAll('#endpoints tbody tr').length === 3")
    colours = tab.evaluate(
        """[...document.querySelectorAll('h1, h2, dt, dd, th, td span, footer, a, #problem')]
        .filter(element => element.innerText.trim()).map(element => {
            let behind = element;
            const filled = (each) => getComputedStyle(each).backgroundColor !== 'rgba(0, 0, 0, 0)';
            while (!filled(behind)) behind = behind.parentElement;
            return [element.innerText, getComputedStyle(element).color,
                getComputedStyle(behind).backgroundColor];
        })"""
    )
    assert len({colour for _, colour, _ in colours}) == 6
    for text, colour, background in colours:
        assert contrast(colour, background) >= 4.5, (text, colour, background)
    assert (luminance(colours[0][2]) < 0.1) == (theme == "dark")


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)". Source: WCAG 2.2."""
    red, green, blue = (int(each) / 255 for each in re.findall(r"\d+", colour)[:3])

    def linear(value: float) -> float:
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)


def contrast(one: str, other: str) -> float:
    """Contrast ratio; 4.5 is the least for text. Source: WCAG 2.2, 1.4.3."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
