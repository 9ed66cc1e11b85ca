/** Copying to the clipboard, and the button that does it. */
import { element, icon } from "./element.js";

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Plain http on another machine than this one is no secure context and has no clipboard object.
  const area = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("The browser did not allow copying.");
}

/** `text` is called at the click, so the button copies what is there then. */
export function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button", class: "quiet", "aria-label": label, title: label }, icon("copy"));
  const show = (name, said) => {
    button.replaceChildren(icon(name));
    button.setAttribute("aria-label", said);
  };
  button.addEventListener("click", async () => {
    try {
      await copy(text());
      show("check", "Copied");
    } catch {
      show("alert", "Not copied: the browser did not allow it");
    }
    setTimeout(() => show("copy", label), 1500);
  });
  return button;
}
