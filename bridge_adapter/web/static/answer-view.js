/** One answer of the model: its text, calls, tokens, error and figures, and what can be done with it. */
import { branches } from "./branches.js";
import { copyButton } from "./clipboard.js";
import { element, iconButton } from "./element.js";
import { errorCard } from "./error-card.js";
import { MarkdownView } from "./markdown.js";
import { stats } from "./stats.js";
import { TokenView } from "./token-view.js";
import { toolCalls } from "./tool-calls.js";

export class AnswerView {
  #node;
  #page;
  #markdown = new MarkdownView();
  #tokens = new TokenView();
  #calls = element("div");
  #error = element("div");
  #stats = element("div");
  #actions = element("div", { class: "actions", role: "group", "aria-label": "This answer" });
  #waiting = element("p", { class: "waiting" }, "Waiting for the first token…");
  #tokensButton;
  #shown = null;
  #drawnCalls = null;

  /** `page` is what the buttons call: see Page in page.js. */
  constructor(node, page) {
    this.#node = node;
    this.#page = page;
    this.#tokensButton = element(
      "button",
      { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => this.#toggleTokens() },
      "Tokens",
    );
    this.#tokens.element.hidden = true;
    this.element = element(
      "article",
      { class: "message assistant", "data-id": node.id },
      element(
        "h2",
        {},
        node.pair && element("span", { class: "side" }, node.side),
        node.request?.model || node.answer.model || "Model",
      ),
      this.#waiting,
      this.#markdown.element,
      this.#tokens.element,
      this.#calls,
      this.#error,
      element("footer", {}, this.#stats, this.#actions),
    );
  }

  /** Draws what has come so far, stopping where it takes longer than `until`; true when all is drawn. */
  update(until) {
    const { answer, state } = this.#node;
    const running = state === "running";
    this.#waiting.hidden = !running || answer.firstAt !== null;
    const drawn = this.#tokens.element.hidden
      ? this.#markdown.update(answer.text, !running, until)
      : this.#tokens.update(answer.logprobs);
    this.#drawCalls();
    this.#stats.replaceChildren(stats(this.#node));
    this.element.setAttribute("aria-busy", String(running || !drawn));
    return drawn;
  }

  /** Draws what depends on the rest of the conversation: the error, the buttons. */
  settle() {
    const node = this.#node;
    const place = this.#page.place(node);
    const mark = JSON.stringify([node.state, { ...place, siblings: place.siblings.map(({ id }) => id) }]);
    if (mark === this.#shown) return;
    this.#shown = mark;
    this.#drawCalls();
    this.#drawError(place);
    this.#drawActions(place);
  }

  focus() {
    this.#actions.querySelector("button:enabled")?.focus();
  }

  #drawError({ canChange }) {
    const { error } = this.#node;
    const retry = canChange ? () => this.#page.again(this.#node) : null;
    const reveal = error && this.#page.revealer(error, this.#node.side);
    this.#error.replaceChildren(...(error ? [errorCard(error, { reveal, retry })] : []));
  }

  #drawActions({ canChange, siblings, chosen }) {
    const node = this.#node;
    this.#tokensButton.hidden = !node.answer.logprobs.length;
    const actions = [
      ...branches(node, siblings, this.#page.show),
      copyButton(() => node.answer.text, "Copy answer"),
      iconButton("again", "Answer again", () => this.#page.again(node), { disabled: !canChange }),
      iconButton("inspect", "Request, events and code", () => this.#page.inspect(node)),
      this.#tokensButton,
    ];
    if (node.pair)
      actions.push(
        element(
          "button",
          {
            type: "button",
            class: "quiet",
            "aria-pressed": String(chosen),
            disabled: !canChange,
            onclick: () => this.#page.show(node.id),
          },
          "Go on from this",
        ),
      );
    this.#actions.replaceChildren(...actions);
  }

  // Drawn anew only where they changed: the form may hold half a result.
  #drawCalls() {
    const node = this.#node;
    const { canChange, last } = this.#page.place(node);
    const open = node.state === "done" && canChange && last;
    const mark = JSON.stringify([node.answer.toolCalls, open]);
    if (mark === this.#drawnCalls || !node.answer.toolCalls.length) return;
    this.#drawnCalls = mark;
    this.#calls.replaceChildren(
      toolCalls(node.answer.toolCalls, open ? (results) => this.#page.giveResults(node, results) : null),
    );
  }

  #toggleTokens() {
    const shown = this.#tokens.element.hidden;
    this.#tokens.element.hidden = !shown;
    this.#markdown.element.hidden = shown;
    this.#tokensButton.setAttribute("aria-pressed", String(shown));
    if (!this.update(performance.now())) this.#page.redraw(this.#node);
  }
}
