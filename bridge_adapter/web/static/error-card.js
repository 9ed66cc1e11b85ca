/** An error as the API tells it: message, the field it names, and what a report about it needs. */
import { element } from "./element.js";

/** `showField` (param => boolean) reveals a setting; `retry` is left out where there is nothing to repeat. */
export function errorCard(error, { showField, retry = null }) {
  const facts = [error.status, error.type, error.code].filter(Boolean).join(" · ");
  return element(
    "div",
    { class: "error", role: "alert" },
    element("p", {}, element("strong", {}, error.name === "BrokenStream" ? "Broken off. " : "Error. "), error.message),
    facts && element("p", { class: "facts" }, facts),
    error.retryAfter && element("p", { class: "facts" }, `Try again in ${error.retryAfter} s.`),
    element(
      "p",
      { class: "row" },
      error.param &&
        element(
          "button",
          { type: "button", class: "small", onclick: () => showField(error.param, error.message) },
          "Field: ",
          element("code", {}, error.param),
        ),
      retry && element("button", { type: "button", class: "small", onclick: retry }, "Try again"),
    ),
  );
}
