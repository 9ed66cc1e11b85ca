/** The calls an answer made, and the form that answers them by hand. */
import { element } from "./element.js";

/** `give` takes one result a call; null shows the calls without a form, as when they are answered already. */
export function toolCalls(calls, give) {
  const cards = calls.map(card);
  if (!give) return element("div", { class: "calls" }, cards);
  const fields = calls.map(({ name }) =>
    element("textarea", {
      rows: 2,
      required: true,
      "aria-label": `Result of ${name}`,
      placeholder: "Result, as the model shall see it",
    }),
  );
  return element(
    "form",
    {
      class: "calls",
      onsubmit: (event) => {
        event.preventDefault();
        give(fields.map(({ value }) => value));
      },
    },
    cards.map((each, index) => {
      each.append(fields[index]);
      return each;
    }),
    element("button", { type: "submit" }, calls.length > 1 ? "Send results" : "Send result"),
  );
}

function card({ name, arguments: args }) {
  const { text, valid } = pretty(args);
  return element(
    "section",
    { class: "call", "aria-label": `Call of ${name}` },
    element(
      "h3",
      {},
      "Calls ",
      element("code", {}, name),
      !valid && element("span", { class: "bad" }, " arguments are not valid JSON"),
    ),
    element("pre", { tabindex: "0", role: "region", "aria-label": `Arguments of ${name}` }, element("code", {}, text)),
  );
}

function pretty(args) {
  try {
    return { text: JSON.stringify(JSON.parse(args), null, 2), valid: true };
  } catch {
    return { text: args, valid: false };
  }
}
