// The interactive page. All text goes into the document as text nodes, never as markup.

const WAIT = 60; // ms after the last key before the model is asked

const models = await (await fetch("/api/models")).json();
const panels = document.getElementById("panels");

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path, question, wanted, tries = 5) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  });
  if (response.status === 429 && tries > 1) {
    await new Promise((done) => setTimeout(done, 1000));
    return wanted() ? ask(path, question, wanted, tries - 1) : null;
  }
  const found = await response.json();
  if (!response.ok) throw new Error(typeof found.detail === "string" ? found.detail : JSON.stringify(found.detail));
  return found;
}

function signed(number) {
  const size = Math.abs(number).toFixed(2);
  if (size === "0.00") return size;
  return `${number < 0 ? "\u2212" : "+"}${size}`; // a minus sign that stays with its number
}

class Panel {
  constructor(title, modelIndex) {
    const section = document.getElementById("panel").content.cloneNode(true).querySelector("section");
    this.section = section;
    this.part = (name) => section.querySelector(`.${name}`);
    section.querySelector("h2").textContent = title;
    section.setAttribute("aria-label", title);
    for (const model of models) this.part("model").append(new Option(model.name));
    this.part("model").selectedIndex = modelIndex;
    this.part("model").addEventListener("change", () => this.restart());
    this.part("text").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.answer(), WAIT);
    });
    for (const example of section.querySelectorAll(".examples button")) {
      example.addEventListener("click", () => {
        this.part("text").value = example.textContent;
        this.answer();
      });
    }
    this.part("layer").addEventListener("input", () => this.showRouting());
    this.part("reset").addEventListener("click", () => this.open());
    this.part("why").addEventListener("click", () => this.attribute());
    this.part("download").addEventListener("click", () => this.download());
    this.asked = 0;
    this.restart();
  }

  get model() {
    return models[this.part("model").selectedIndex];
  }

  get question() {
    const closed = [...this.closed].map((pair) => pair.split(",").map(Number));
    return { text: this.part("text").value, model: this.model.name, closed };
  }

  restart() {
    this.closed = new Set();
    this.found = undefined; // of another model, with other layers
    this.part("routing").hidden = this.model.layers.length === 0;
    this.part("layer").max = Math.max(0, this.model.layers.length - 1);
    this.part("layer").value = this.part("layer").max;
    this.part("why").hidden = !this.model.attribution;
    this.answer();
  }

  open() {
    this.closed.clear();
    this.answer();
  }

  answer() {
    this.asked += 1;
    this.part("problem").textContent = "";
    this.part("attribution").replaceChildren();
    this.part("doubts").replaceChildren();
    if (!this.part("text").value.trim()) {
      this.part("answer").hidden = true;
      return;
    }
    if (!this.waiting) this.askNewest(); // one question at a time
  }

  async askNewest() {
    const number = this.asked;
    this.waiting = true;
    try {
      const question = this.question;
      const found = await ask("/api/answer", question, () => number === this.asked);
      if (number === this.asked) {
        this.found = { ...question, labels: this.model.labels, ...found };
        this.part("answer").hidden = false;
        this.showAnswer();
        this.showRouting();
        this.section.dataset.answered = number;
      }
    } catch (error) {
      if (number === this.asked) {
        this.part("answer").hidden = true;
        this.part("problem").textContent = error.message;
      }
    }
    this.waiting = false;
    if (number !== this.asked && this.part("text").value.trim()) this.askNewest();
  }

  showAnswer() {
    const { probabilities, milliseconds, cut_at } = this.found;
    const best = probabilities.indexOf(Math.max(...probabilities));
    const percent = (value) => `${(100 * value).toFixed(1)}%`;
    this.part("label").textContent = `${this.model.labels[best]} (${percent(probabilities[best])})`;
    const rows = this.model.labels.flatMap((label, index) => {
      const name = element("dt", "", label);
      const bar = element("dd");
      const progress = element("progress");
      progress.max = 1;
      progress.value = probabilities[index];
      progress.setAttribute("aria-label", `${label}: ${percent(probabilities[index])}`);
      bar.append(progress);
      return [name, bar, element("dd", "number", percent(probabilities[index]))];
    });
    this.part("bars").replaceChildren(...rows);
    this.part("time").textContent = `${milliseconds} ms`;
    this.part("cut").textContent = cut_at === null ? "" : `This page reads only the first ${cut_at} tokens of a text.`;
  }

  showRouting() {
    if (!this.found || this.model.layers.length === 0) return;
    const place = Number(this.part("layer").value);
    const layer = this.model.layers[place];
    this.part("shown").textContent = layer;
    const focused = document.activeElement?.dataset?.expert;
    const buttons = Array.from({ length: this.model.experts }, (_, expert) => {
      const button = element("button", `e${expert % 8}`, `expert ${expert}`);
      button.type = "button";
      button.dataset.expert = expert;
      button.setAttribute("aria-pressed", String(!this.closed.has(`${layer},${expert}`)));
      button.addEventListener("click", () => this.toggle(layer, expert));
      return button;
    });
    const inside = this.part("experts").contains(document.activeElement);
    this.part("experts").replaceChildren(...buttons);
    if (inside && focused !== undefined) buttons[Number(focused)]?.focus();
    const tokens = this.found.pieces.map((piece) => {
      if (!piece.experts) return document.createTextNode(piece.text);
      const expert = piece.experts[place][0];
      const token = element("span", `tok e${expert % 8}`, piece.text);
      const shares = piece.experts[place].map((each, k) => `expert ${each}: ${piece.weights[place][k].toFixed(2)}`);
      token.title = shares.join(", ");
      token.append(element("sub", "", String(expert)));
      return token;
    });
    this.part("tokens").replaceChildren(...tokens);
  }

  toggle(layer, expert) {
    const pair = `${layer},${expert}`;
    const open = this.model.experts - [...this.closed].filter((each) => each.startsWith(`${layer},`)).length;
    if (this.closed.has(pair)) this.closed.delete(pair);
    else if (open > this.model.experts_per_token) this.closed.add(pair);
    else {
      this.part("problem").textContent = `${this.model.experts_per_token} experts must read each token; switch another on first.`;
      return;
    }
    this.answer();
  }

  async attribute() {
    const number = this.asked;
    try {
      const found = await ask("/api/attribution", this.question, () => number === this.asked);
      if (number !== this.asked) return; // the text has changed since
      const most = Math.max(...found.pieces.map((piece) => Math.abs(piece.score ?? 0))) || 1;
      const parts = found.pieces.map((piece) => {
        if (piece.score === null) return document.createTextNode(piece.text);
        const token = element("span", "whole", piece.text);
        const side = piece.score > 0 ? "--up" : "--down";
        const share = Math.round((60 * Math.abs(piece.score)) / most);
        token.style.background = `color-mix(in srgb, var(${side}) ${share}%, transparent)`;
        token.append(element("sub", "", signed(piece.score)));
        return token;
      });
      this.part("attribution").replaceChildren(`For ${found.label} (green) or against it (red): `, ...parts);
      this.part("doubts").replaceChildren(...found.doubts.map((line) => element("li", "", line)));
    } catch (error) {
      if (number === this.asked) this.part("problem").textContent = error.message;
    }
  }

  download() {
    const content = JSON.stringify(this.found, null, 1);
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    link.download = "sentimoe.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

const first = new Panel("Text 1", 0);
panels.append(first.section);
let second = null;
document.getElementById("compare").addEventListener("change", (event) => {
  if (event.target.checked) {
    second = new Panel("Text 2", models.length - 1);
    second.part("text").value = first.part("text").value;
    panels.append(second.section);
    second.answer();
  } else {
    second?.section.remove();
    second = null;
  }
});
first.part("text").focus();
