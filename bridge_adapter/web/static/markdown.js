/**
 * Markdown as DOM, block by block, so that a growing text redraws its last block only.
 * HTML in the text is shown as text; what marked makes passes DOMPurify's allow-list before it becomes elements.
 */
import { Marked } from "./vendor/marked.js";
import "./vendor/purify.js";
import { codeBlock } from "./code-block.js";
import { element } from "./element.js";

const ALLOWED = {
  ALLOWED_TAGS: "a blockquote br code del em h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul".split(
    " ",
  ),
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html({ text }) {
      return escape(text);
    },
    image({ href, text }) {
      return `<a href="${escape(href)}">${escape(text || href)}</a>`;
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
  },
});

function escape(text) {
  return text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

export class MarkdownView {
  element = element("div", { class: "markdown" });
  #blocks = [];
  #lexed = { text: "", tokens: [] };

  /**
   * Draws `text`; while it is not `complete`, its last block is taken to be still growing.
   * Past the time `until` it stops between two blocks and returns false: the rest is for the next call.
   */
  update(text, complete, until) {
    const tokens = this.#tokens(text);
    const closed = (index) => complete || index < tokens.length - 1;
    const stands = (block, index) => block?.raw === tokens[index].raw && block.closed === closed(index);
    let kept = 0;
    while (kept < tokens.length && stands(this.#blocks[kept], kept)) kept++;
    for (const block of this.#blocks.splice(kept)) for (const node of block.nodes) node.remove();
    for (let index = kept; index < tokens.length; index++) {
      const nodes = drawn(tokens[index], closed(index));
      this.element.append(...nodes);
      this.#blocks.push({ raw: tokens[index].raw, closed: closed(index), nodes });
      if (performance.now() > until && index < tokens.length - 1) return false;
    }
    return true;
  }

  #tokens(text) {
    if (text !== this.#lexed.text) {
      const tokens = marked.lexer(text, marked.defaults).filter(({ type }) => type !== "space" && type !== "def");
      this.#lexed = { text, tokens };
    }
    return this.#lexed.tokens;
  }
}

function drawn(token, closed) {
  const fragment = globalThis.DOMPurify.sanitize(marked.parser([token], marked.defaults), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer nofollow");
  }
  for (const pre of fragment.querySelectorAll("pre")) {
    const language = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
    pre.replaceWith(codeBlock(pre.textContent, language, closed));
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = element("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return [...fragment.childNodes];
}
