/** Tabs by the ARIA pattern: arrow keys move, the chosen one's panel is drawn when it is shown. */
import { element } from "./element.js";

let made = 0;

/** `panels` maps each tab's name to a function that makes its content. */
export function tabs(label, panels, chosen = Object.keys(panels)[0]) {
  const prefix = `tab-${++made}`;
  const names = Object.keys(panels);
  const panel = element("div", { role: "tabpanel", id: prefix, class: "panel" });
  const buttons = names.map((name, index) =>
    element(
      "button",
      { type: "button", role: "tab", id: `${prefix}-${index}`, "aria-controls": prefix, onclick: () => choose(index) },
      name,
    ),
  );
  const choose = (index) => {
    buttons.forEach((button, at) => {
      button.setAttribute("aria-selected", String(at === index));
      button.tabIndex = at === index ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", buttons[index].id);
    panel.replaceChildren(...[panels[names[index]]()].flat());
  };
  const list = element("div", { role: "tablist", "aria-label": label, class: "tabs" }, buttons);
  list.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const index = (buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length;
    buttons[index].focus();
    choose(index);
  });
  choose(Math.max(0, names.indexOf(chosen)));
  return [list, panel];
}
