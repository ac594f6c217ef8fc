# Ruby's net-ssh, net-sftp, net-scp: `ruby client.rb CASE '{"port":…,"username":…,"key":…,…}'`; raises when a claim does not hold.
require 'digest'
require 'json'
require 'net/scp'
require 'net/sftp'
require 'net/ssh'
require 'socket'

TO = JSON.parse(ARGV[1])
BLOB = Random.bytes(8 << 20)

def claim(is, should = true)
  raise "#{is.inspect[0, 300]} is not #{should.inspect[0, 300]}" unless is == should
end

def ssh(more = {}, &body)
  Net::SSH.start(TO['address'], TO['username'], { port: TO['port'], keys: [TO['key']], keys_only: true, verify_host_key: :never, config: false,
                                                  use_agent: false, non_interactive: true }.merge(more), &body)
end

# What a command says and how it ends.
def run(s, command, input = nil, pty: false)
  r = { out: +''.b, err: +''.b }
  s.open_channel do |ch|
    ch.request_pty(term: 'vt220', chars_wide: 77, chars_high: 33) { |_, ok| claim(ok) } if pty
    ch.exec(command) do |c, ok|
      claim(ok)
      c.on_data { |_, d| r[:out] << d }
      c.on_extended_data { |_, _, d| r[:err] << d }
      c.on_request('exit-status') { |_, d| r[:status] = d.read_long }
      c.on_request('exit-signal') { |_, d| r[:signal] = d.read_string }
      c.send_data(input) if input
      c.eof!
    end
  end
  s.loop
  r
end

case ARGV[0]
when 'key' then ssh { |s| claim(run(s, 'echo in')[:out], "in\n") }
when 'streams'
  ssh do |s|
    r = run(s, 'tee copy; cat copy >&2; exit 5', BLOB)
    claim([r[:out] == BLOB, r[:err] == BLOB, r[:status]], [true, true, 5])
    claim(run(s, 'kill -TERM $$')[:signal], 'TERM')
  end
when 'terminal' then ssh { |s| claim(run(s, 'stty size; echo $TERM', pty: true)[:out], "33 77\r\nvt220\r\n") }
when 'channels'
  ssh do |s|
    said = {}
    50.times { |i| s.exec("echo #{i}") { |_, _, d| said[i] = d } }
    s.loop
    claim(said, 50.times.to_h { |i| [i, "#{i}\n"] })
  end
when 'rekey' then ssh(rekey_limit: 1 << 20) { |s| claim(run(s, 'cat', BLOB * 4)[:out] == BLOB * 4) }
when 'compression' then ssh(compression: true) { |s| claim(run(s, 'cat', BLOB)[:out] == BLOB) }
when 'keepalive' then ssh(keepalive: true, keepalive_interval: 1) { |s| claim(run(s, 'sleep 5; echo awake')[:out], "awake\n") }
when 'forwards'
  ssh do |s|
    port = s.forward.local('127.0.0.1', 0, '127.0.0.1', TO['echo'])
    got = nil
    asker = Thread.new do
      c = TCPSocket.new('127.0.0.1', port)
      c.write('there')
      got = c.read(5) # it takes the end of one half for that of both
      c.close
    end
    s.loop(0.05) { asker.alive? }
    claim(got, 'there')
  end
when 'sftp'
  ssh do |s|
    File.binwrite("#{TO['here']}/f", BLOB)
    s.sftp.upload!("#{TO['here']}/f", 'there')
    s.sftp.download!('there', "#{TO['here']}/g")
    claim(File.binread("#{TO['here']}/g") == BLOB)
    s.sftp.rename!('there', 'moved')
    claim(s.sftp.dir.entries('.').map(&:name).sort, %w[. .. moved])
    s.sftp.mkdir!('tree')
    s.sftp.upload!(TO['tree'], 'tree')
    claim(s.sftp.dir.glob('tree', '**/*').length.positive?)
    s.scp.upload!("#{TO['here']}/f", 'by-scp')
    claim(s.scp.download!('by-scp') == BLOB)
  end
else raise ARGV[0]
end
