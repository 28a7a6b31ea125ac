"""Both pages in headless Chromium: `make test-browser`."""

import json
import re
import shutil
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import uvicorn
from backbone import labelled_texts, write_backbone
from playwright.sync_api import expect, sync_playwright
from test_explain import hostile
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe import SentimentClassifier
from sentimoe.explain.report import read_part
from sentimoe.pages import create_app
from sentimoe.training import TrainConfig, train

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECTIONS = ("classes", "load", "words", "answers", "knock-out", "similarity", "clusters", "quality", "check", "texts")
# numbers, with their signs, that stand on more than one line; texts of the data are left out
BROKEN_NUMBERS = """() => {
  const broken = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (node.parentElement.closest("bdi")) continue;
    for (const found of node.data.matchAll(/[+\\u2212-]?\\d[\\d.,]*%?/g)) {
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      const lines = new Set([...range.getClientRects()].map((each) => Math.round(each.top)));
      if (lines.size > 1) broken.push(found[0]);
    }
  }
  return broken;
}"""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> great"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained model with experts, its data, and a report whose texts are hostile."""
    root = tmp_path_factory.mktemp("browser")
    texts, labels = labelled_texts(200)
    texts = [f"{text} {bad}" for text, bad in zip(texts, hostile(), strict=True)]
    (root / "data").mkdir()
    for name, part in (("train", slice(0, 120)), ("validation", slice(120, 150)), ("test", slice(150, 200))):
        rows = [
            json.dumps({"text": text, "label": label}) for text, label in zip(texts[part], labels[part], strict=True)
        ]
        (root / "data" / f"{name}.jsonl").write_text("\n".join(rows))
    config = TrainConfig(
        model=write_backbone(root / "backbone"), data=str(root / "data"), method="moe-gated", epochs=2, max_length=64,
        learning_rate=5e-3, batch_size=16, method_settings={"init_noise": 0.5}, precision="float32",
    )  # fmt: skip
    train(config, root / "model", progress=False)
    train(replace(config, method="full", method_settings={}), root / "dense", progress=False)
    told = ["explain", str(root / "model"), "--data", str(root / "data"), "--output", str(root / "report"), "--full"]
    told += ["--dense", str(root / "dense")]
    done = CliRunner().invoke(sentimoe_cli.app, told)
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module")
def address(run):
    classifier = SentimentClassifier.from_pretrained(run / "model", precision="float32", long_texts="truncate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app({"first": classifier, "second": classifier})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "Chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that must leave no message on the console and meet no error."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert said == []


def bars(page, panel=0):
    found = page.locator(".panel").nth(panel).locator("progress")
    return [float(found.nth(index).get_attribute("value")) for index in range(found.count())]


def asked(page, act, panel=0):
    """Act, and wait until the panel shows a newer answer. (The page allows no eval, which wait_for_function needs.)"""
    section = page.locator(".panel").nth(panel)
    before = section.get_attribute("data-answered") if section.count() else None
    act()
    expect(section).to_have_attribute("data-answered", re.compile(r"\d+"))
    if before is not None:
        expect(section).not_to_have_attribute("data-answered", before)


def test_type_a_text_and_switch_an_expert_off(page, address):
    page.goto(address)
    asked(page, lambda: page.locator("textarea").fill("a great lovely thing"))
    before = bars(page)
    assert len(before) == 2 and sum(before) == pytest.approx(1, abs=1e-4)
    assert page.locator(".label").inner_text().startswith(("negative", "positive"))
    assert page.locator(".tok").count() == 4
    experts = page.locator(".experts button")
    assert experts.count() == 4
    number = page.locator(".tok sub").first.inner_text()
    asked(page, lambda: experts.nth(int(number)).click())
    expect(experts.nth(int(number))).to_have_attribute("aria-pressed", "false")
    assert bars(page) != before and number not in page.locator(".tok sub").all_inner_texts()
    asked(page, lambda: page.locator(".reset").click())
    assert bars(page) == before


def test_the_layer_slider_and_the_limit_of_open_experts(page, address):
    page.goto(address)
    asked(page, lambda: page.locator("textarea").fill("a great lovely thing"))
    assert page.locator(".layer").input_value() == "1"
    last = page.locator(".tok sub").all_inner_texts()
    page.locator(".layer").fill("0")
    page.locator(".layer").dispatch_event("input")
    assert page.locator(".shown").inner_text() == "0"
    first = page.locator(".tok sub").all_inner_texts()
    assert len(first) == len(last)
    for expert in (0, 1):
        asked(page, lambda number=expert: page.locator(".experts button").nth(number).click())
    page.locator(".experts button").nth(2).click()
    assert "must read each token" in page.locator(".problem").inner_text()


def test_an_example_to_press_and_signs_that_stay_with_their_numbers(page, address):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(address)
    asked(page, lambda: page.locator(".examples button").first.click())
    assert page.locator("textarea").input_value().endswith("I am furious!")
    with page.expect_response("**/api/attribution"):
        page.locator(".why").click()
    page.wait_for_selector(".attribution span")
    numbers = page.locator(".attribution sub").all_inner_texts()
    assert len(numbers) > 10 and all(re.fullmatch(r"[+\u2212]?\d+\.\d\d", number) for number in numbers)
    assert page.evaluate(BROKEN_NUMBERS) == [] and page.evaluate("document.documentElement.scrollWidth") <= 390
    for token in page.locator(".attribution .whole").all():  # and a number with its token
        assert token.bounding_box()["height"] < 40


def test_two_side_by_side_and_the_download(page, address):
    page.goto(address)
    asked(page, lambda: page.locator("textarea").fill("a great lovely thing"))
    asked(page, lambda: page.locator("#compare").check(), panel=1)
    assert page.locator(".panel").count() == 2
    assert bars(page, 1) == bars(page, 0)
    assert page.locator("select.model").nth(1).input_value() == "second"
    with page.expect_download() as waiting:
        page.locator(".download").first.click()
    found = json.loads(waiting.value.path().read_text(encoding="utf-8"))
    assert found["text"] == "a great lovely thing" and np.isclose(sum(found["probabilities"]), 1, atol=1e-4)


def test_the_page_by_keyboard_alone(page, address):
    page.goto(address)
    expect(page.locator("textarea")).to_be_focused()
    asked(page, lambda: page.keyboard.insert_text("great"))
    page.locator(".layer").focus()
    page.keyboard.press("Tab")
    first = page.locator(".experts button").first
    expect(first).to_be_focused()
    asked(page, lambda: page.keyboard.press("Enter"))
    expect(first).to_have_attribute("aria-pressed", "false")
    expect(first).to_be_focused()  # the focus stays where it was


def test_hostile_text_shows_as_text(page, address):
    page.goto(address)
    asked(page, lambda: page.locator("textarea").fill(HOSTILE))
    assert page.title() == "SentiMoE: explore" and page.locator(".tokens img, .tokens script").count() == 0
    shown = page.evaluate(
        "[...document.querySelector('.tokens').childNodes].map(n => n.firstChild ? n.firstChild.data : n.data).join('')"
    )
    assert shown == HOSTILE


def test_the_report_from_disk_without_a_network(browser, run):
    context = browser.new_context(offline=True)
    page, said, asked_for = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked_for.append(request.url))
    file = run / "report" / "report.html"
    page.goto(file.as_uri())
    assert said == [] and asked_for == [file.as_uri()] and file.stat().st_size < 5_000_000
    assert page.locator("h1").inner_text().startswith("Do the experts help here? ")
    for width in (390, 1280):  # what is folded takes no room
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollHeight") < 6_500
    page.locator("li a").nth(3).click()  # opens what it leads to
    assert page.locator("#knock-out table").first.is_visible()
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    for section in SECTIONS:
        assert page.locator(f"section#{section}").is_visible(), section
        assert page.locator(f"section#{section} :is(table, svg, article)").count() > 0, section
    clusters = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))["clusters"]
    assert [each["title"] for each in clusters] == ["experts", "dense", "expert outputs"]
    for width in (320, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(BROKEN_NUMBERS) == []
    page.set_viewport_size({"width": 1280, "height": 800})
    figures = ["experts: texts by class", "experts: texts by dominant expert", "dense: texts by class"]
    figures += ["expert outputs: texts by class", "expert outputs: texts by expert", "Reliability diagram"]
    figures += ["Accuracy against the share of texts with an answer"]
    assert [
        page.locator("svg").nth(n).get_attribute("aria-label") for n in range(page.locator("svg").count())
    ] == figures
    points = [len(each["points"]) * (1 if each["expert"] is None else 2) for each in clusters]  # by class, by expert
    assert points[0] == 100 and page.locator("svg circle").count() == sum(points)
    assert page.locator("svg rect").count() > 0 and page.locator("td.heat").count() > 4 * 2 * 5
    for svg in page.locator("svg").all():
        assert svg.is_visible() and svg.bounding_box()["height"] > 100
    assert page.get_by_text("The points:").count() == 3 and page.get_by_text("The numbers of each token").count() == 40
    told = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))["texts"]
    assert any("<script" in text["text"] for text in told)
    for number, text in enumerate(told):  # the line of the attribution has nothing but the text
        line = page.locator("article").nth(number).locator(".line bdi").last.text_content()
        read = read_part(text["text"], text["tokens"])  # HTML knows one kind of line end and no NUL
        assert line == read.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    assert page.locator("article").count() == 40 and page.locator("img, script, iframe").count() == 0
    for width in (320, 1200):  # a phone: nothing wider than the screen but what scrolls by itself
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == "rgb(22, 22, 26)"
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = false")
    page.emulate_media(media="print")  # white paper, nothing behind a scroll bar, and what is folded is printed
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.wide')).overflowX") == "visible"
    assert page.locator("details:not([open]) table").first.evaluate("table => table.checkVisibility()")
    context.close()
