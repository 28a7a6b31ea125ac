"""Pictures of both pages for the README: `python tests/browser/screenshots.py MODEL REPORT.html FOLDER`."""

import sys
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright
from test_pages import CHROMIUM

from sentimoe import SentimentClassifier
from sentimoe.pages import create_app
from sentimoe_cli.models import model_name

TEXT = "Two hours late and nobody told us anything. Worst airline ever, I am furious!"


def main(model: Path, report: Path, folder: Path, port: int = 8799) -> None:
    app = create_app({model_name(model): SentimentClassifier.from_pretrained(model, long_texts="truncate")})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 760})
        page.goto(f"http://127.0.0.1:{port}/")
        with page.expect_response("**/api/answer"):
            page.locator("textarea").fill(TEXT)
        page.wait_for_selector(".tok")
        with page.expect_response("**/api/attribution"):
            page.locator(".why").click()
        page.wait_for_selector(".attribution span")
        page.screenshot(path=folder / "explore.png", full_page=True)
        page.goto(report.resolve().as_uri())
        page.screenshot(path=folder / "report-classes.png")
        page.locator("article > details > summary").nth(1).click()
        page.locator("article").nth(1).screenshot(path=folder / "report-text.png")
        page.locator("#clusters summary").first.click()
        page.locator("#clusters figure").first.screenshot(path=folder / "report-clusters.png")
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
