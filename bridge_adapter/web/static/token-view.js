/**
 * The tokens of an answer, tinted by how likely each was, with the alternatives of the one pointed at.
 * A listbox: arrow keys, Home and End move through it, as hovering does.
 */
import { element } from "./element.js";

const AT_ONCE = 200;

let views = 0;

export class TokenView {
  element = element("div", { class: "tokens" });
  #entries = [];
  #list;
  #details = element("div", { class: "token-details", "aria-live": "polite", role: "region", tabindex: "0" });
  #prefix = `tokens-${++views}`;
  #active = -1;

  constructor() {
    this.#list = element("div", {
      class: "token-list",
      role: "listbox",
      tabindex: "0",
      "aria-label": "Tokens by probability",
    });
    this.#list.addEventListener("pointerover", (event) => this.#point(event.target));
    this.#list.addEventListener("click", (event) => this.#point(event.target));
    this.#list.addEventListener("focus", () => this.#show(Math.max(this.#active, 0)));
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    this.#details.setAttribute("aria-label", "Alternatives");
    this.element.append(this.#list, this.#details);
  }

  /** Draws the logprobs that are not there yet (they only ever grow), some more at each call; true when all are. */
  update(logprobs) {
    const next = logprobs.slice(this.#entries.length, this.#entries.length + AT_ONCE);
    this.#list.append(...next.map((entry, index) => this.#token(entry, this.#entries.length + index)));
    this.#entries.push(...next);
    return this.#entries.length === logprobs.length;
  }

  #token(entry, index) {
    const tint = Math.min(9, Math.floor(Math.exp(entry.logprob) * 10));
    return element(
      "span",
      {
        class: `token tint-${tint}`,
        role: "option",
        "aria-selected": "false",
        id: `${this.#prefix}-${index}`,
        "aria-label": `${visible(entry.token)}, ${percent(entry.logprob)}`,
      },
      entry.token.replaceAll("\n", "↵\n"),
    );
  }

  #point(target) {
    const token = target.closest(".token");
    if (token) this.#show(Number(token.id.slice(this.#prefix.length + 1)));
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.#show(Math.max(0, Math.min(this.#entries.length - 1, this.#active + steps[event.key])));
  }

  #show(index) {
    if (index === this.#active || !this.#entries[index]) return;
    this.#list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = index;
    const token = this.#list.children[index];
    token.setAttribute("aria-selected", "true");
    this.#list.setAttribute("aria-activedescendant", token.id);
    this.#details.replaceChildren(details(this.#entries[index], index));
  }
}

function details(entry, index) {
  const others = entry.top_logprobs.filter(({ token }) => token !== entry.token);
  return element(
    "table",
    {},
    element("caption", {}, `Token ${index + 1}`),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ["Token", "Probability", "Logprob"].map((name) => element("th", { scope: "col" }, name)),
      ),
    ),
    element(
      "tbody",
      {},
      row(entry, "chosen"),
      others.map((other) => row(other, "other")),
    ),
  );
}

function row({ token, logprob }, kind) {
  const probability = Math.exp(logprob);
  return element(
    "tr",
    { class: kind, "data-token": token, "data-logprob": logprob },
    element("th", { scope: "row" }, element("code", {}, visible(token))),
    element(
      "td",
      {},
      element("meter", { min: 0, max: 1, value: probability, "aria-label": "Probability" }),
      ` ${percent(logprob)}`,
    ),
    element("td", {}, logprob.toFixed(4)),
  );
}

function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  return share >= 0.1 ? `${share.toFixed(1)} %` : "under 0.1 %";
}

function visible(token) {
  return token.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "(nothing)";
}
