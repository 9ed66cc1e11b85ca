/**
 * The messages shown, first to last, pairs side by side. Draws answers a few milliseconds a frame, however fast they
 * come, and keeps to the end while they grow.
 */
import { AnswerView } from "./answer-view.js";
import { element } from "./element.js";
import { QuestionView } from "./question-view.js";

const NEAR = 80;
const BUDGET = 8;

export class ThreadView {
  #chat;
  #page;
  #list;
  #scroller;
  #views = new Map();
  #pending = new Set();
  #following = true;
  #cost = 0;

  constructor(list, scroller, chat, page) {
    this.#list = list;
    this.#scroller = scroller;
    this.#chat = chat;
    this.#page = page;
    chat.addEventListener("thread", () => this.#arrange());
    chat.addEventListener("answer", ({ detail }) => this.redraw(detail));
    scroller.addEventListener("scroll", () => {
      this.#following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
    });
    this.#arrange();
  }

  /** From now on keeps to the end, as when the user has sent something. */
  follow() {
    this.#following = true;
    this.#keepToEnd();
  }

  /** The view of a message that is shown. */
  view(id) {
    return this.#views.get(id);
  }

  /** Draws a message that changed, in the next frames. */
  redraw(id) {
    if (!this.#pending.size) this.#plan();
    this.#pending.add(id);
  }

  #arrange() {
    const rows = this.#chat.conversation.path().map((node) => (node.pair ? this.#chat.pair(node) : [node]));
    const views = new Map();
    const items = rows.map((nodes) => {
      const elements = nodes.map((node) => {
        const view = this.#views.get(node.id) ?? this.#made(node);
        views.set(node.id, view);
        view.settle();
        return view.element;
      });
      return elements.length === 1 ? elements[0] : pairRow(elements);
    });
    this.#views = views;
    // Only what differs is touched: moving an element would take the focus out of it.
    items.forEach((item, index) => {
      const there = this.#list.children[index];
      if (there !== item) this.#list.insertBefore(item, there ?? null);
    });
    while (this.#list.children.length > items.length) this.#list.lastElementChild.remove();
    this.#keepToEnd();
  }

  #made(node) {
    this.redraw(node.id);
    return node.role === "assistant" ? new AnswerView(node, this.#page) : new QuestionView(node, this.#page);
  }

  // A frame that took long is followed by a rest of the same length, so typing and scrolling stay smooth.
  #plan() {
    setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#cost);
  }

  #draw() {
    const started = performance.now();
    for (const id of this.#pending) {
      if (this.#views.get(id)?.update(started + BUDGET) ?? true) this.#pending.delete(id);
      if (performance.now() > started + BUDGET) break;
    }
    this.#keepToEnd();
    this.#cost = performance.now() - started;
    if (this.#pending.size) this.#plan();
  }

  #keepToEnd() {
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

const rowsOfPairs = new WeakMap();

function pairRow(elements) {
  const first = elements[0];
  const row = rowsOfPairs.get(first) ?? element("div", { class: "pair" });
  rowsOfPairs.set(first, row);
  if (elements.some((each, index) => row.children[index] !== each)) row.replaceChildren(...elements);
  return row;
}
