// Measures replies: Artillery's WebSocket engine counts messages, but has no figure for the time between two.
'use strict';

function asked(context, events, done) {
  context.vars.askedAt = performance.now();
  done();
}

function answered(context, events, done) {
  events.emit('counter', 'replies', 1);
  events.emit('histogram', 'reply_ms', performance.now() - context.vars.askedAt);
  done();
}

module.exports = { asked, answered };
