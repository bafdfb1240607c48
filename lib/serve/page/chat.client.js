// The page of a server: conversations with its models, one or two side by side.
const byId = (id) => document.getElementById(id);
/** In memory alone: whoever opens the page again types it again. */
let key = '';

/** Asks the server; a refusal throws its own sentence. */
async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) byId('access').hidden = false;
  const { error } = await response.json().catch(() => ({}));
  throw new Error(error?.message ?? `the server answered ${response.status}`);
}

/** The events of a stream, without the last one that only ends it. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error('the connection ended before the answer did');
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line === 'data: [DONE]') return;
      if (line.startsWith('data: ')) yield JSON.parse(line.slice('data: '.length));
    }
  }
}

/** What is known of an answer so far: its text, and when its tokens came. */
class Answer {
  text = '';
  #asked = performance.now();
  #first;
  #last;
  #pieces = 0;
  #tokens;
  #reason;

  take({ choices: [choice], usage, error }) {
    if (error) throw new Error(error.message);
    this.#tokens = usage?.completion_tokens ?? this.#tokens;
    if (!choice) return;
    const { content } = choice.delta;
    if (!content && !choice.finish_reason) return;
    this.#last = performance.now();
    this.#reason = choice.finish_reason;
    if (!content) return;
    this.#first ??= this.#last;
    this.#pieces++;
    this.text += content;
  }

  /** A piece is a token or, where a character takes several, some of them: their number is known when the answer has ended. */
  get figures() {
    if (this.#first === undefined) return '';
    const count = this.#tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    const about = this.#tokens === undefined ? 'about ' : '';
    return [
      `first token after ${Math.round(this.#first - this.#asked)} ms`,
      ...(seconds > 0 && count > 1 ? [`${((count - 1) / seconds).toFixed(1)} tokens/s`] : []),
      `${about}${count} ${count === 1 ? 'token' : 'tokens'}`,
      ...(this.#reason === 'length' ? ['cut off at the most tokens'] : []),
    ].join(' · ');
  }
}

/** A conversation with one model. */
class Column {
  #messages = [];

  constructor(section) {
    this.section = section;
    this.select = section.querySelector('select');
    this.log = section.querySelector('.log');
    this.figures = section.querySelector('.figures');
  }

  clear() {
    this.#messages = [];
    this.log.replaceChildren();
    this.figures.textContent = '';
  }

  show(models, at) {
    const chosen = this.select.value;
    this.select.replaceChildren(...models.map((name) => new Option(name)));
    this.select.value = models.includes(chosen) ? chosen : models[Math.min(at, models.length - 1)];
  }

  #add(kind, text) {
    const line = document.createElement('p');
    line.className = kind;
    line.textContent = text;
    this.log.append(line);
    this.log.scrollTop = this.log.scrollHeight;
    return line;
  }

  /** Asks for an answer and shows it as it comes. One that is stopped stays; one that fails is not part of the conversation. */
  async say(content, { system, ...settings }, signal) {
    this.#add('user', content);
    const line = this.#add('assistant', '');
    const answer = new Answer();
    const messages = this.#messages;
    const before = system === '' ? [] : [{ role: 'system', content: system }];
    try {
      const response = await ask('v1/chat/completions', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
          ...settings,
          model: this.select.value,
          messages: [...before, ...messages, { role: 'user', content }],
          stream: true,
          stream_options: { include_usage: true },
        }),
        signal,
      });
      for await (const event of eventsOf(response.body)) {
        if (messages !== this.#messages) return; // a new conversation has begun
        answer.take(event);
        const { log } = this;
        const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
        line.textContent = answer.text;
        this.figures.textContent = answer.figures;
        if (atEnd) log.scrollTop = log.scrollHeight;
      }
    } catch (error) {
      if (messages !== this.#messages) return;
      if (!signal.aborted) return void this.#add('trouble', error.message);
      this.figures.textContent = [answer.figures, 'stopped'].filter(Boolean).join(' · ');
    }
    messages.push({ role: 'user', content }, { role: 'assistant', content: answer.text });
  }
}

const columns = [...document.querySelectorAll('.column')].map((section) => new Column(section));
const trouble = byId('trouble');
let stop;

async function listModels() {
  trouble.textContent = '';
  try {
    const { data } = await (await ask('v1/models')).json();
    columns.forEach((column, at) =>
      column.show(
        data.map(({ id }) => id),
        at,
      ),
    );
    byId('access').hidden = true;
    byId('key').value = '';
    byId('send').disabled = false;
  } catch (error) {
    trouble.textContent = error.message;
  }
}

/** Fields of a request that the page asks for; an empty one is left to the server. */
function settings() {
  const number = (id) => (byId(id).value === '' ? undefined : Number(byId(id).value));
  return {
    system: byId('system').value.trim(),
    temperature: number('temperature'),
    max_tokens: number('most'),
  };
}

function busy(is) {
  byId('send').disabled = is;
  byId('compare').disabled = is;
  byId('stop').disabled = !is;
}

async function send() {
  const text = byId('message').value.trim();
  if (text === '' || stop || byId('send').disabled) return;
  byId('message').value = '';
  stop = new AbortController();
  busy(true);
  const { signal } = stop;
  const asked = columns.filter(({ section }) => !section.hidden);
  await Promise.all(asked.map((column) => column.say(text, settings(), signal)));
  stop = undefined;
  busy(false);
}

const halt = () => stop?.abort();
byId('stop').addEventListener('click', halt);
byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  void send();
});
byId('message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  void send();
});
addEventListener('keydown', ({ key: pressed }) => {
  if (pressed === 'Escape') halt();
});
byId('compare').addEventListener('change', ({ target }) => {
  columns[1].section.hidden = !target.checked;
  columns[1].clear(); // which would have heard only a part of what was said
});
byId('new').addEventListener('click', () => {
  halt();
  for (const column of columns) column.clear();
  void listModels(); // adapters may have come since
});
byId('access').addEventListener('submit', (event) => {
  event.preventDefault();
  key = byId('key').value.trim();
  void listModels();
});
if (byId('access').hidden) void listModels();
