import subprocess, re
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    b=p.chromium.launch(executable_path="/usr/bin/chromium",args=["--no-sandbox"]); print(b.version)
    pg=b.new_page(); pg.goto("file:///tmp/rev/rep3/report.html"); 
    pg.pdf(path="/tmp/rev/r.pdf")
    pg.emulate_media(media="print")
    print(pg.evaluate("""() => [...document.querySelectorAll('details')].map(d => [d.open, d.lastElementChild.checkVisibility({contentVisibilityAuto:true}), d.getBoundingClientRect().height])""")[:6])
    for scheme in ("light","dark"):
        pg.emulate_media(media="screen",color_scheme=scheme)
        print(scheme, pg.evaluate("[getComputedStyle(document.body).backgroundColor,getComputedStyle(document.body).color]"))
    pg.emulate_media(media="print",color_scheme="dark"); print("print in dark", pg.evaluate("[getComputedStyle(document.body).backgroundColor,getComputedStyle(document.body).color, getComputedStyle(document.documentElement).getPropertyValue('--page')]"))
    b.close()
