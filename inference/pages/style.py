"""The style sheet of the pages: light and dark, wide and narrow screens, paper."""

__all__ = ["STYLE"]

STYLE = """
:root {
  --ink: #16202b; --soft: #5b6875; --page: #f4f6f8; --card: #ffffff; --line: #dfe4e9; --accent: #0072b2;
  --shade: 0 114 178;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6ebf0; --soft: #9aa7b4; --page: #10161c; --card: #19222b; --line: #2c3843; --accent: #6db8ea;
    --shade: 86 180 233;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 0 0 .5rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 0 0 .75rem; font-size: 1.15rem; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1rem 0; }
section {
  margin: 1rem 0; padding: 1.1rem 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
}
p { margin: .4rem 0; }
.verdict {
  margin: .9rem 0; padding: .6rem .9rem; background: var(--card); border-left: .3rem solid var(--accent);
  border-radius: .3rem; font-weight: 600;
}
.note { color: var(--soft); font-size: .9rem; }
.faded { color: var(--soft); }
.text { white-space: pre-wrap; unicode-bidi: isolate; }
table { width: 100%; border-collapse: collapse; margin: .6rem 0 1rem; }
caption { text-align: start; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .4rem .6rem .4rem 0; text-align: start; vertical-align: top; border-top: 1px solid var(--line); }
th { width: 8.5rem; font-weight: 400; color: var(--soft); font-variant-numeric: tabular-nums; }
tr.strong td { font-weight: 600; }
pre {
  margin: .5rem 0; padding: .7rem .8rem; overflow-x: auto; overflow-wrap: normal; background: var(--page);
  border-radius: .4rem; font: .75rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
summary { cursor: pointer; }
.text b {
  font-weight: inherit; border-radius: .2rem;
  background: rgb(var(--shade) / calc(.42 * var(--weight))); box-shadow: inset 0 0 0 1px rgb(var(--shade) / .14);
}
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: .75rem; }
.pictures img { width: 100%; max-width: 34rem; padding: .3rem; background: #ffffff; border-radius: .4rem; }
@media (max-width: 34rem) {
  body { padding: 1rem .6rem 3rem; }
  section { padding: .9rem .8rem; }
  th, td { display: block; width: auto; padding: .1rem 0 .35rem; }
  td { border-top: 0; }
  th { padding-top: .5rem; font-size: .85rem; }
  pre { font-size: .72rem; }
}
@media print { body { background: none; } section { break-inside: avoid-page; } nav { display: none; } }
"""
