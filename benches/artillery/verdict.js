// Reads Artillery's report, says what it came to in a line, and exits with 1 unless everybody was served.
'use strict';

const REPLIES_EACH = 10;

const { counters, summaries, firstCounterAt, lastCounterAt } = JSON.parse(
  require('fs').readFileSync(process.argv[2])
).aggregate;
const count = (name) => counters[name] ?? 0;
const created = count('vusers.created');
const completed = count('vusers.completed');
const failed = count('vusers.failed');
const replies = count('replies');
const errors = Object.entries(counters).filter(([name]) => name.startsWith('errors.'));
const took = summaries.reply_ms ?? {};

console.log(
  `artillery: ${created} clients in ${((lastCounterAt - firstCounterAt) / 1e3).toFixed(0)} s, ${completed} completed, ` +
    `${failed} failed; ${replies} of ${created * REPLIES_EACH} pings answered; ` +
    `reply p50 ${took.p50} ms, p99 ${took.p99} ms, max ${took.max} ms as Artillery sees them`
);
for (const [name, times] of errors) console.log(`  ${name}: ${times} times`);

const well =
  created > 0 && completed === created && failed === 0 && errors.length === 0 && replies === created * REPLIES_EACH;
if (!well) console.log('artillery: MISSED');
process.exit(well ? 0 : 1);
