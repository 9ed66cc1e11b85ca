/** An error as the API tells it: message, the field it names, and what a report about it needs. */
import { element } from "./element.js";

/** `reveal` shows the setting the error is about and `retry` tries again; null where that cannot be done. */
export function errorCard(error, { reveal = null, retry = null }) {
  const field = error.param && ["Field: ", element("code", {}, error.param)];
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
      field && (reveal ? element("button", { type: "button", class: "small", onclick: reveal }, field) : field),
      retry && element("button", { type: "button", class: "small", onclick: retry }, "Try again"),
    ),
  );
}
