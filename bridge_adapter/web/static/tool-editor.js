/** The tools the model may call: each a name, a description and a JSON schema of its parameters. */
import { element, iconButton } from "./element.js";

const EXAMPLE = {
  name: "get_weather",
  description: "Current weather of a city",
  parameters: JSON.stringify({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }, null, 2),
};
const BLANK = { name: "", description: "", parameters: '{ "type": "object", "properties": {} }' };

/** `change` is given a function that changes the settings; it keeps them, and draws the form anew where asked. */
export function toolEditor(settings, change) {
  const choice = element("select", { onchange: ({ target }) => change((now) => (now.toolChoice = target.value)) });
  const fillChoice = () => choice.replaceChildren(...choices(settings));
  fillChoice();
  return element(
    "fieldset",
    { "data-param": "tools" },
    element("legend", {}, "Tools"),
    settings.tools.map((tool, index) => editor(tool, index, change, fillChoice)),
    element(
      "button",
      {
        type: "button",
        class: "small",
        onclick: () => change((now) => now.tools.push({ ...(now.tools.length ? BLANK : EXAMPLE) }), true),
      },
      "Add a tool",
    ),
    settings.tools.length > 0 && [
      element("label", { "data-param": "tool_choice" }, element("span", {}, "Tool choice"), choice),
      element(
        "label",
        { class: "check", "data-param": "parallel_tool_calls" },
        element("input", {
          type: "checkbox",
          checked: settings.parallelToolCalls,
          onchange: ({ target }) => change((now) => (now.parallelToolCalls = target.checked)),
        }),
        element("span", {}, "Parallel calls"),
      ),
    ],
  );
}

function editor(tool, index, change, renamed) {
  const keep =
    (name) =>
    ({ target }) =>
      change((now) => (now.tools[index][name] = target.value));
  const name = element("input", {
    value: tool.name,
    placeholder: "name",
    "aria-label": `Tool ${index + 1}, name`,
    spellcheck: "false",
    oninput: keep("name"),
    onchange: renamed,
  });
  const description = element("input", {
    value: tool.description,
    placeholder: "what it does",
    "aria-label": `Tool ${index + 1}, description`,
    oninput: keep("description"),
  });
  const parameters = element("textarea", {
    rows: 5,
    class: "mono",
    "aria-label": `Tool ${index + 1}, parameters as JSON schema`,
    spellcheck: "false",
    oninput: keep("parameters"),
  });
  parameters.value = tool.parameters;
  const remove = iconButton("delete", `Remove tool ${index + 1}`, () =>
    change((now) => now.tools.splice(index, 1), true),
  );
  return element("div", { class: "tool" }, element("div", { class: "row" }, name, remove), description, parameters);
}

function choices({ tools, toolChoice }) {
  const names = ["auto", "none", "required", ...tools.map(({ name }) => name).filter(Boolean)];
  return names.map((name) => element("option", { value: name, selected: name === toolChoice }, name));
}
