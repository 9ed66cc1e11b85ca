/**
 * The messages shown, first to last, pairs side by side. Redraws a growing answer at most once a frame,
 * and keeps to the end while it grows.
 */
import { AnswerView } from "./answer-view.js";
import { element } from "./element.js";
import { QuestionView } from "./question-view.js";

const NEAR = 80;

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
    chat.addEventListener("answer", ({ detail }) => this.#grow(detail));
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

  /** The last question shown, for editing. */
  lastQuestion() {
    const node = this.#chat.conversation.path().findLast(({ role }) => role === "user");
    return node && this.#views.get(node.id);
  }

  #arrange() {
    const rows = this.#chat.conversation.path().map((node) => (node.pair ? this.#chat.pair(node) : [node]));
    const views = new Map();
    const items = rows.map((nodes) => {
      const elements = nodes.map((node) => {
        const view =
          this.#views.get(node.id) ??
          (node.role === "assistant" ? new AnswerView(node, this.#page) : new QuestionView(node, this.#page));
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

  #grow(id) {
    this.#pending.add(id);
    if (this.#pending.size > 1) return;
    // A slow redraw is followed by a rest of three times its length, so typing and scrolling stay smooth.
    setTimeout(() => requestAnimationFrame(() => this.#draw()), this.#cost * 3);
  }

  #draw() {
    const started = performance.now();
    for (const id of this.#pending) this.#views.get(id)?.update();
    this.#pending.clear();
    this.#keepToEnd();
    this.#cost = performance.now() - started;
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
