/** One message of the user or of a tool, as plain text; a user's can be edited and asked again. */
import { branches } from "./branches.js";
import { copyButton } from "./clipboard.js";
import { element, iconButton } from "./element.js";

export class QuestionView {
  #node;
  #page;
  #body;
  #actions = element("div", { class: "actions", role: "group", "aria-label": "This message" });
  #shown = null;

  constructor(node, page) {
    this.#node = node;
    this.#page = page;
    this.#body = element("div", { class: "text" }, node.content);
    const tool = node.role === "tool";
    this.element = element(
      "article",
      { class: `message ${node.role}`, "data-id": node.id },
      element("h2", { class: tool ? null : "visually-hidden" }, tool ? "Tool result" : "You"),
      this.#body,
      element("footer", {}, this.#actions),
    );
  }

  /** There is nothing to draw later: a question comes whole. */
  update() {
    return true;
  }

  focus() {
    this.#actions.querySelector("button:enabled")?.focus();
  }

  settle() {
    const node = this.#node;
    const { canChange, siblings } = this.#page.place(node);
    const mark = JSON.stringify([canChange, siblings.map(({ id }) => id)]);
    if (mark === this.#shown) return;
    this.#shown = mark;
    this.#actions.replaceChildren(
      ...branches(node, siblings, this.#page.show),
      copyButton(() => node.content, "Copy message"),
      ...(node.role === "user"
        ? [iconButton("edit", "Edit and ask again", () => this.edit(), { disabled: !canChange })]
        : []),
    );
  }

  /** Turns the text into a form; what is sent from it becomes a branch. */
  edit() {
    const field = element("textarea", { "aria-label": "Edit message", rows: 3 });
    field.value = this.#node.content;
    const close = () => {
      form.replaceWith(this.#body);
      this.#actions.hidden = false;
    };
    const send = () => {
      if (field.value.trim() && this.#page.edit(this.#node, field.value)) close();
    };
    const form = element(
      "form",
      {
        class: "edit",
        onsubmit: (event) => {
          event.preventDefault();
          send();
        },
        onkeydown: (event) => {
          if (event.key === "Escape") close();
          else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            send();
          }
        },
      },
      field,
      element(
        "div",
        { class: "row" },
        element("button", { type: "submit", class: "primary" }, "Send"),
        element("button", { type: "button", onclick: close }, "Cancel"),
      ),
    );
    this.#body.replaceWith(form);
    this.#actions.hidden = true;
    field.focus();
  }
}
