/** The switch between the branches of a conversation at one message. */
import { element, iconButton } from "./element.js";

/** No elements where there is one branch only. */
export function branches(node, siblings, show) {
  if (siblings.length < 2) return [];
  const at = siblings.findIndex(({ id }) => id === node.id);
  const step = (by) => () => show(siblings[at + by].id);
  return [
    iconButton("previous", "Previous branch", step(-1), { disabled: at === 0 }),
    element("span", { class: "branch" }, `${at + 1} / ${siblings.length}`),
    iconButton("next", "Next branch", step(1), { disabled: at === siblings.length - 1 }),
  ];
}
