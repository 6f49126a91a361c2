// Sort a table by a column: click on its head. Numbers sort as numbers, 33k as 33,000.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = row => {
        const text = row.cells[column].textContent.trim();
        const number = parseFloat(text.replace(/,/g, "").replace("\u2212", "-"));
        const unit = /^[^ ]*k\b/.test(text) ? 1e3 : /^[^ ]*M\b/.test(text) ? 1e6 : 1;
        return Number.isNaN(number) ? text : number * unit;
      };
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (typeof x === typeof y) return typeof x === "number" ? x - y : x.localeCompare(y);
        return typeof x === "number" ? -1 : 1;
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => rising ? compare(a, b) : compare(b, a));
      body.append(...rows);
    });
  });
}
