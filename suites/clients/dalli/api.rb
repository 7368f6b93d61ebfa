# The whole API of dalli, which speaks binary alone in this version. Arguments: host, port.
require 'logger'
require 'dalli'

HOST, PORT = ARGV
Dalli.logger = Logger.new($stderr)

def connect(options = {})
  Dalli::Client.new("#{HOST}:#{PORT}", { socket_timeout: 30 }.merge(options))
end

# What is said of each case: "ok NAME" or "not ok NAME # why", as cases.py reads it.
def check(name, expected)
  seen = yield
  why = "#{seen.inspect}, expected #{expected.inspect}" unless seen == expected
rescue StandardError => e
  why = "#{e.class}: #{e.message}"
ensure
  puts(why ? "not ok #{name} # #{why.lines.first.chomp[0, 300]}" : "ok #{name}")
  $stdout.flush
end

# Until it holds: what expires does so by the server's clock, which ticks in seconds.
def eventually
  deadline = Time.now + 10
  while Time.now < deadline
    return true if yield

    sleep 0.05
  end
  false
end

def storing(client)
  check('set', true) { client.set('a', 'value').is_a?(Integer) }
  check('get', 'value') { client.get('a') }
  check('get of nothing', nil) { client.get('nothing') }
  check('add of something', false) { client.add('a', 'other') }
  check('add', true) { client.add('b', { 'x' => [1, nil, 2.5] }) ? true : false }
  check('get of a hash', { 'x' => [1, nil, 2.5] }) { client.get('b') }
  check('replace', true) { client.replace('a', 'new') ? true : false }
  check('replace of nothing', 0) { client.replace('nothing', 'x') }
  client.set('raw', 'b', 100, raw: true)
  check('append', true) { client.append('raw', 'c') }
  check('prepend', true) { client.prepend('raw', 'a') }
  check('get of joined', 'abc') { client.get('raw', raw: true) }
  check('append to nothing', false) { client.append('nothing', 'c') }
  check('delete', true) { client.delete('a') }
  check('delete of nothing', nil) { client.delete('a') }
  check('get of deleted', nil) { client.get('a') }
  check('set of nil', nil) { client.set('nil', nil) && client.get('nil') }
  check('fetch of nothing', 'made') { client.fetch('fetched', 100) { 'made' } }
  check('fetch', 'made') { client.fetch('fetched', 100) { 'again' } }
end

def several(client)
  check('multi', %w[v1 v2]) do
    client.multi do
      client.set('m1', 'v1')
      client.set('m2', 'v2')
      client.delete('nothing')
      client.add('m1', 'not stored')
    end
    [client.get('m1'), client.get('m2')]
  end
  check('get_multi', { 'm1' => 'v1', 'm2' => 'v2' }) { client.get_multi('m1', 'nothing', 'm2') }
  check('get_multi with a block', %w[m1 m2]) do
    seen = []
    client.get_multi('m1', 'm2') { |key, _| seen << key }
    seen.sort
  end
  check('get_multi of nothing', {}) { client.get_multi('nothing', 'nowhere') }
  values = (0...500).to_h { |n| ["many-#{n}", "value #{n}"] }
  check('500 in multi', true) do
    client.multi { values.each { |key, value| client.set(key, value) } }
    client.get_multi(values.keys) == values
  end
end

def swapping(client)
  client.set('c', 'first')
  value, token = client.get_cas('c')
  check('get_cas', ['first', true]) { [value, token.positive?] }
  check('get_cas of nothing', [nil, 0]) { client.get_cas('nothing') }
  check('set_cas', true) { client.set_cas('c', 'second', token) ? true : false }
  check('set_cas with an old token', false) { client.set_cas('c', 'third', token) }
  check('replace_cas with an old token', false) { client.replace_cas('c', 'third', token) }
  check('delete_cas with an old token', false) { client.delete_cas('c', token) }
  check('cas', 'second!') { client.cas('c') { |old| "#{old}!" } && client.get('c') }
  check('cas of nothing', nil) { client.cas('nothing') { 'x' } }
  check('cas! of nothing', 'made') { client.cas!('cas!') { 'made' } && client.get('cas!') }
  check('cas of a changed item', false) { client.cas('c') { client.set('c', 'other') && 'mine' } }
  check('get_multi_cas', [['c', true]]) { client.get_multi_cas('c', 'nothing').map { |k, v| [k, v[1].positive?] } }
  check('replace_cas', true) { client.replace_cas('c', 'x', client.get_cas('c')[1]) ? true : false }
  check('delete_cas', true) { client.delete_cas('c', client.get_cas('c')[1]) }
end

def counting(client)
  check('incr of nothing', nil) { client.incr('n') }
  check('incr with initial value', 10) { client.incr('n', 1, 100, 10) }
  check('incr', 15) { client.incr('n', 5) }
  check('decr', 13) { client.decr('n', 2) }
  check('decr below zero', 0) { client.decr('n', 100) }
  check('decr with initial value', 7) { client.decr('m', 1, 100, 7) }
  check('largest number', 2**64 - 1) { client.incr('largest', 1, 100, 2**64 - 1) }
end

def expiring(client)
  # One of 1 s may be gone at once.
  %w[touched got untouched].each { |key| client.set(key, 'x', 2) }
  check('touch', true) { client.touch('touched', 100) }
  check('touch of nothing', nil) { client.touch('nothing', 100) }
  check('gat', 'x') { client.gat('got', 100) }
  check('gat of nothing', nil) { client.gat('nothing', 100) }
  check('it expires', true) { eventually { client.get('untouched').nil? } }
  check('touched stays', %w[x x]) { [client.get('touched'), client.get('got')] }
end

def sizes(client)
  raw = connect(compress: false, value_max_bytes: 4 << 20)
  bytes = "\0\r\n\x80\x81".b * 180_000
  check('set of 900 kB', true) { raw.set('large', bytes, 100, raw: true) ? true : false }
  check('get of 900 kB', true) { raw.get('large', raw: true) == bytes }
  check('set of 2 MB', 'Response error 3: Value too large') do
    raw.set('huge', 'x' * 2_000_000, 100, raw: true)
  rescue Dalli::DalliError => e
    e.message
  end
  check('compressed', 500_000) { client.set('zip', 'long ' * 100_000) && client.get('zip').size }
  check('longest key', 'x') { client.set('k' * 250, 'x') && client.get('k' * 250) }
  check('a longer key', 'x') { client.set('k' * 400, 'x') && client.get('k' * 400) }
  check('key of other letters', 'x') { client.set('ключ', 'x') && client.get('ключ') }
  check('namespace', 'x') { connect(namespace: 'app').set('ns', 'x') && client.get('app:ns') }
end

def server(client)
  name = "#{HOST}:#{PORT}"
  check('version', true) { client.version[name].match?(/\A1\.6\.\d+\z/) }
  check('stats', true) { client.stats[name].key?('curr_items') }
  check('stats of settings', true) { client.stats(:settings)[name].key?('maxbytes') }
  check('stats of items', true) { client.stats(:items)[name].is_a?(Hash) }
  check('reset_stats', true) { client.reset_stats ? true : false }
  check('alive!', true) { client.alive! ? true : false }
  check('flush', true) { client.flush.all? }
  check('get of flushed', nil) { client.get('b') }
  check('close', 'x') { client.close || (client.set('b', 'x') && client.get('b')) }
end

client = connect
storing(client)
several(client)
swapping(client)
counting(client)
expiring(client)
sizes(client)
server(client)
