"""How a report's page looks."""

CSS = """
:root{--ink:#111827;--soft:#4b5563;--line:#e5e7eb;--back:#f3f4f6;--good:#15803d;--bad:#b91c1c;
--plain:#64748b}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header{background:#111827;color:#fff;padding:28px max(24px,calc(50vw - 600px))}
header h1{margin:0;font-size:28px;font-weight:650}
header p{margin:6px 0 0;color:#cbd5e1}
nav{position:sticky;top:0;z-index:2;background:#fff;border-bottom:1px solid var(--line);
padding:8px max(24px,calc(50vw - 600px));display:flex;flex-wrap:wrap;gap:4px 16px}
nav a{color:#1d4ed8;text-decoration:none;font-size:14px}
nav a:hover{text-decoration:underline}
main{max-width:1248px;margin:0 auto;padding:8px 24px 48px}
section{background:#fff;border:1px solid var(--line);border-radius:10px;padding:20px 24px;
margin-top:16px;scroll-margin-top:48px}
h2{margin:0 0 10px;font-size:20px}
h3{margin:18px 0 6px;font-size:15px}
.note{color:var(--soft);font-size:14px;max-width:86ch;margin:6px 0 12px}
.summary{list-style:none;margin:0;padding:0}
.summary li{border-left:5px solid var(--plain);background:#f9fafb;padding:10px 14px;
margin:8px 0;border-radius:0 6px 6px 0;max-width:110ch}
.summary li.good{border-color:var(--good);background:#f0fdf4}
.summary li.bad{border-color:var(--bad);background:#fef2f2}
.mark{display:inline-block;width:11px;height:11px;border-radius:3px;background:var(--plain)}
.mark.good{background:var(--good)}.mark.bad{background:var(--bad)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;min-width:50%}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);
vertical-align:middle}
th{color:var(--soft);font-weight:600;border-bottom:2px solid #9ca3af;vertical-align:bottom}
.n{text-align:right;white-space:nowrap}
th.n{white-space:normal}
tbody tr:hover{background:#f9fafb}
small{color:var(--soft);font-size:12px}
#figures small{display:block}
.figures{display:flex;flex-wrap:wrap;gap:16px;margin-top:14px}
figure{margin:0;flex:1 1 460px;min-width:0}
figure:only-child svg:not(.wide){max-width:820px}
figure svg,figure img{width:100%;height:auto;display:block}
.halves{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:0 28px}
.half{min-width:0}
.halves table{width:100%;font-size:13px}
.halves td:not(.n){overflow-wrap:anywhere}
td img{display:block;width:72px;height:72px;border-radius:4px;margin-bottom:2px}
pre{background:#f9fafb;border:1px solid var(--line);border-radius:6px;padding:14px;
overflow-x:auto;font-size:13px;line-height:1.45}
@media print{nav{display:none}body{background:#fff}section{break-inside:avoid;border:0}}
"""
