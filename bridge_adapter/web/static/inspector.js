/** What is behind an answer: the request as sent, the events as they came, and the request as code. */
import { copyButton } from "./clipboard.js";
import { element } from "./element.js";
import { SNIPPETS } from "./snippets.js";
import { tabs } from "./tabs.js";

export function inspector(node, base) {
  const panels = {
    Request: () => listing("Request", JSON.stringify(node.request, null, 2)),
    Events: () => listing("Events", node.events.map((data) => `data: ${data}`).join("\n\n")),
  };
  for (const [name, snippet] of Object.entries(SNIPPETS))
    panels[name] = () => listing(name, snippet(base, node.request));
  return tabs("Behind this answer", panels);
}

function listing(name, text) {
  return [
    element(
      "div",
      { class: "row end" },
      copyButton(() => text, `Copy ${name}`),
    ),
    element("pre", { tabindex: "0", role: "region", "aria-label": name }, element("code", {}, text || "nothing")),
  ];
}
