// The whole API of memjs, which speaks binary alone. Its own tests need no server. Arguments: host, port.
'use strict';

const memjs = require('memjs');

const [host, port] = process.argv.slice(2);
const client = memjs.Client.create(`${host}:${port}`, { timeout: 30, conntimeout: 30 });

// What is said of each case: "ok NAME" or "not ok NAME # why", as cases.py reads it.
async function check(name, call, expected) {
  let why;
  try {
    const seen = await call();
    if (JSON.stringify(seen) !== JSON.stringify(expected)) {
      why = `${JSON.stringify(seen)}, expected ${JSON.stringify(expected)}`;
    }
  } catch (error) {
    why = String(error);
  }
  console.log(why === undefined ? `ok ${name}` : `not ok ${name} # ${why.slice(0, 300)}`);
}

// Until it holds: what expires does so by the server's clock, which ticks in seconds.
async function eventually(condition) {
  for (const deadline = Date.now() + 10000; Date.now() < deadline;) {
    if (await condition()) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

async function text(key) {
  const { value } = await client.get(key);
  return value && value.toString();
}

async function refused(call) {
  try {
    return await call;
  } catch (error) {
    return error.message;
  }
}

async function storing() {
  await check('set', () => client.set('a', 'value', {}), true);
  await check('get', () => text('a'), 'value');
  await check('get of nothing', () => text('nothing'), null);
  await check('add of something', () => client.add('a', 'other', {}), false);
  await check('add', () => client.add('b', 'value', {}), true);
  await check('replace', () => client.replace('a', 'new', {}), true);
  await check('replace of nothing', () => client.replace('nothing', 'x', {}), false);
  await check('append', () => client.append('a', '!'), true);
  await check('prepend', () => client.prepend('a', '#'), true);
  // In 1.3.2 prepend appends.
  await check('get of joined', () => text('a'), 'new!#');
  await check('append to nothing', () => refused(client.append('nothing', 'x')), 'MemJS APPEND: Item not stored');
  await check('prepend to nothing', () => refused(client.prepend('nothing', 'x')), 'MemJS PREPEND: Item not stored');
  await check('delete', () => client.delete('a'), true);
  await check('delete of nothing', () => client.delete('a'), false);
  await check('get of deleted', () => text('a'), null);
  await check('empty value', async () => [await client.set('empty', '', {}), await text('empty')], [true, '']);
  const bytes = Buffer.alloc(900000, '\0\r\n\x80\x81');
  await check('set of 900 kB', () => client.set('large', bytes, {}), true);
  await check('get of 900 kB', async () => bytes.equals((await client.get('large')).value), true);
  await check('longest key', async () => {
    const key = 'k'.repeat(250);
    return [await client.set(key, 'x', {}), await text(key)];
  }, [true, 'x']);
  await check('callbacks', () => new Promise((resolve) => {
    client.set('called', 'x', {}, (error, stored) => {
      client.get('called', (error2, value) => resolve([error, stored, error2, value.toString()]));
    });
  }), [null, true, null, 'x']);
}

async function counting() {
  const value = async (call) => (await call).value;
  await check('increment with initial value', () => value(client.increment('n', 5, { initial: 10 })), 10);
  await check('increment', () => value(client.increment('n', 5, {})), 15);
  await check('decrement', () => value(client.decrement('n', 2, {})), 13);
  await check('decrement below zero', () => value(client.decrement('n', 100, {})), 0);
  await check('decrement with initial value', () => value(client.decrement('m', 5, { initial: 10 })), 10);
  await check('the number as text', () => text('m'), '10');
}

async function expiring() {
  await client.set('untouched', 'x', { expires: 2 });
  await client.set('touched', 'x', { expires: 2 });
  await check('touch', () => client.touch('touched', 100), true);
  await check('touch of nothing', () => client.touch('nothing', 100), false);
  await check('it expires', () => eventually(async () => await text('untouched') === null), true);
  await check('touched stays', () => text('touched'), 'x');
}

async function sideBySide() {
  const keys = Array.from({ length: 500 }, (_, n) => `many-${n}`);
  await check('500 sets at once', async () => {
    const stored = await Promise.all(keys.map((key) => client.set(key, key, {})));
    return stored.every((one) => one);
  }, true);
  await check('500 gets at once', async () => {
    const values = await Promise.all(keys.map(text));
    return values.every((value, n) => value === keys[n]);
  }, true);
}

// These answer by callback alone.
function answered(call) {
  return new Promise((resolve, reject) => {
    call((error, server, seen) => (error ? reject(error) : resolve(seen)));
  });
}

async function server() {
  await check('stats', async () => 'curr_items' in await answered((done) => client.stats(done)), true);
  await check('stats of settings', async () =>
    'maxbytes' in await answered((done) => client.statsWithKey('settings', done)), true);
  await check('reset of stats', async () => {
    await answered((done) => client.resetStats(done));
    return true;
  }, true);
  await check('flush', async () => Object.values(await client.flush()).flat().includes(true), true);
  await check('get of flushed', () => text('b'), null);
}

async function main() {
  await storing();
  await counting();
  await expiring();
  await sideBySide();
  await server();
  client.quit();
  client.close();
}

main();
