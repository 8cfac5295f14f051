import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { connect, errorDetails, generate, grpc, unary } from './api.js';
import { startDaemon } from './daemon.js';

let daemon;
let api;

before(async () => {
  daemon = await startDaemon(['--max_context=100000']);
  api = connect(daemon.address);
});

after(async () => {
  api.close();
  assert.equal(await daemon.stop(), 0, 'sessad drains and exits with 0');
});

const greedy = { max_tokens: 20, temperature: 0, stop: ['\n'] };
// Longer than any test waits: what ends such a turn is what the test does to it.
const endless = { max_tokens: 90000, temperature: 0, ignore_eos: true };

function kinds(events) {
  return events.map((event) => event.event).filter((kind, i, all) => kind !== all[i - 1]);
}

test('the model describes itself', async () => {
  const model = await unary(api.inference, 'GetModel', {});
  assert.ok(model.shape.vocab_size > 0);
  assert.ok(model.state_bytes_per_token > 0);
  assert.equal(model.state_bytes_per_page, model.state_bytes_per_token * model.page_tokens);
  assert.ok(model.has_tokenizer);
});

test('a completion streams events in order', async () => {
  const prompt = 'Mia went to the kitchen.\nQ: Where is Mia?\nA:';
  const { events, text, metadata } = await generate(api.inference, { text: prompt, sampling: greedy });
  assert.deepEqual(
    kinds(events).filter((kind) => kind !== 'progress'),
    ['started', 'delta', 'sample_finished', 'finished'],
  );
  assert.equal(text, ' Mia is in the kitchen.');
  const started = events[0].started;
  assert.deepEqual(metadata.get('sessa-session-id'), [started.session_id]);
  let position = started.position + started.prompt_tokens;
  for (const { delta } of events.filter((event) => event.event === 'delta')) {
    assert.equal(delta.position, position, 'positions follow one another');
    position += delta.token_ids.length;
  }
  const last = events.at(-1).finished;
  assert.equal(last.position, position);
  assert.equal(last.usage.prompt_tokens, started.prompt_tokens);
  const end = events.find((event) => event.event === 'sample_finished').sample_finished;
  assert.equal(end.reason, 'FINISH_REASON_STOP');
  assert.equal(end.stop_matched, '\n');
});

test('a session remembers over two turns and connections', async () => {
  const told = await generate(api.inference, {
    text: 'Tom is in the barn. Anna picked up the lamp.\n',
    keep_session: true,
    sampling: { max_tokens: 0 },
  });
  const { session_id } = told.events[0].started;
  const { position } = told.events.at(-1).finished;
  assert.ok(!told.events.some((event) => event.event === 'delta'));

  const other = connect(daemon.address);
  try {
    const asked = await generate(other.inference, {
      session_id,
      text: 'Q: Where is the lamp?\nA:',
      expected_position: position,
      sampling: greedy,
    });
    assert.equal(asked.text, ' Anna has the lamp.');
    assert.equal(asked.events[0].started.position, position);
    assert.equal(asked.events[0].started.cached_tokens, position, 'nothing was computed again');
    const session = await unary(other.sessions, 'GetSession', { session_id });
    assert.equal(session.position, asked.events.at(-1).finished.position);
  } finally {
    other.close();
  }
  await unary(api.sessions, 'DeleteSession', { session_id });
});

test('cancelling the call ends the turn, and the session goes on', async () => {
  const { session_id } = await unary(api.sessions, 'CreateSession', {});
  let seen = 0;
  const request = { session_id, text: 'Mia went to the yard.', sampling: endless };
  const error = await generate(api.inference, request, {
    onEvent(event, call) {
      if (event.event === 'delta' && ++seen === 3) call.cancel();
    },
  }).then(assert.fail, (e) => e);
  assert.equal(error.code, grpc.status.CANCELLED);

  // The server hears of it a moment later; until then a second turn is refused.
  let next;
  do {
    next = await generate(api.inference, { session_id, text: '\n', sampling: { max_tokens: 0 } }).catch((e) => e);
    if (next instanceof Error) assert.equal(next.code, grpc.status.ABORTED, next.message);
  } while (next instanceof Error);
  assert.ok(next.events[0].started.position > 3, 'what was sent before stays');
});

test('CancelTurn ends a stream in order', async () => {
  let asked = false;
  const request = { request_id: 'node-cancel', text: 'Mia went to the yard.', sampling: endless };
  const { events } = await generate(api.inference, request, {
    onEvent(event) {
      if (event.event !== 'delta' || asked) return;
      asked = true;
      api.inference.CancelTurn({ turn_request_id: 'node-cancel' }, assert.ifError);
    },
  });
  assert.equal(events.at(-1).event, 'finished');
  const end = events.find((event) => event.event === 'sample_finished').sample_finished;
  assert.equal(end.reason, 'FINISH_REASON_CANCELLED');
});

// Client and server both keep the deadline, each by its own clock: whichever is first ends the call, in its own way.
test('a deadline ends the call', async () => {
  const request = { text: 'Mia went to the yard.', sampling: endless };
  const end = await generate(api.inference, request, { options: { deadline: Date.now() + 50 } }).catch((e) => e);
  if (end instanceof Error) {
    assert.equal(end.code, grpc.status.DEADLINE_EXCEEDED, end.message);
  } else {
    const sample = end.events.find((event) => event.event === 'sample_finished').sample_finished;
    assert.equal(sample.reason, 'FINISH_REASON_DEADLINE');
    assert.equal(end.events.at(-1).event, 'finished');
  }
});

test('an invalid field is named', async () => {
  const error = await generate(api.inference, { text: 'x', sampling: { top_p: -1 } }).then(assert.fail, (e) => e);
  assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
  const details = errorDetails(error);
  assert.equal(details.ErrorInfo.domain, 'sessa.v1');
  assert.equal(details.ErrorInfo.reason, 'INVALID_FIELD');
  assert.equal(details.BadRequest.fieldViolations[0].field, 'sampling.top_p');
});

test('an unknown session is named', async () => {
  const session_id = '0123456789abcdef0123456789abcdef';
  const error = await unary(api.sessions, 'GetSession', { session_id }).then(assert.fail, (e) => e);
  assert.equal(error.code, grpc.status.NOT_FOUND);
  const details = errorDetails(error);
  assert.equal(details.ErrorInfo.reason, 'SESSION_NOT_FOUND');
  assert.match(details.ResourceInfo.resourceName, new RegExp(session_id));
});

test('a wrong expected_position is refused with the real one', async () => {
  const { session_id } = await unary(api.sessions, 'CreateSession', {});
  const error = await generate(api.inference, { session_id, text: 'x', expected_position: 5 }).then(
    assert.fail,
    (e) => e,
  );
  assert.equal(error.code, grpc.status.ABORTED);
  assert.equal(errorDetails(error).ErrorInfo.reason, 'POSITION_MISMATCH');
});

test('tokens and text are each other\'s inverse', async () => {
  const text = 'Mia went to the kitchen. Zoë 😀\n';
  const { token_ids } = await unary(api.inference, 'Tokenize', { text });
  assert.ok(token_ids.length > 0);
  assert.equal((await unary(api.inference, 'Detokenize', { token_ids })).text, text);
});

test('health and status say that it serves', async () => {
  assert.equal((await unary(api.health, 'Check', {})).status, 'SERVING');
  const error = await unary(api.health, 'Check', { service: 'no.such.Service' }).then(assert.fail, (e) => e);
  assert.equal(error.code, grpc.status.NOT_FOUND);
  const status = await unary(api.admin, 'GetStatus', {});
  assert.equal(status.serving, true);
  assert.equal(status.state.orphan_pages, 0);
});

test('many streams share one connection', async () => {
  const prompt = 'Mia went to the kitchen.\nQ: Where is Mia?\nA:';
  const all = await Promise.all(
    Array.from({ length: 24 }, () => generate(api.inference, { text: prompt, sampling: greedy })),
  );
  for (const { text } of all) assert.equal(text, ' Mia is in the kitchen.');
});
