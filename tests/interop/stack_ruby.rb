# Ruby's grpc (an older C core) on both sides: `serve`, or `call PORT`.
# What the service does is told in mirror.py, and what the cases are in cases.py.
require "digest"
require "grpc"
require "json"
require "securerandom"
require "socket"

SERVICE = "interop.v1.Mirror".freeze
SIZES = [31_415, 9, 2_653, 58_979].freeze
LARGE = ((0..255).to_a * 1_062).pack("C*").freeze
BINARY = [(0..255).to_a.pack("C*"), "".b, [0, 44, 255].pack("C*")].freeze
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n".freeze
GZIP = { "grpc-internal-encoding-request" => "gzip" }.freeze
ENDED_SECONDS = 20
DEADLINE_SECONDS = 0.3

# Messages as they are; the library wants answers of a class that encodes itself.
Octets = Struct.new(:octets) do
  def self.encode(message) = message.octets
  def self.decode(octets) = octets
end
CODEC = ->(octets) { octets }

# Which calls of Mirror have ended.
class Ends
  def initialize
    @lock = Mutex.new
    @changed = ConditionVariable.new
    @names = {}
  end

  def note(name)
    @lock.synchronize do
      @names[name] = true
      @changed.broadcast
    end
  end

  def wait(name)
    limit = Process.clock_gettime(Process::CLOCK_MONOTONIC) + ENDED_SECONDS
    @lock.synchronize do
      until @names[name]
        left = limit - Process.clock_gettime(Process::CLOCK_MONOTONIC)
        return "goes on" if left <= 0
        @changed.wait(@lock, left)
      end
    end
    "ended"
  end
end

class MirrorService
  include GRPC::GenericService
  self.marshal_class_method = :encode
  self.unmarshal_class_method = :decode
  self.service_name = SERVICE
  rpc :Unary, Octets, Octets
  rpc :Collect, stream(Octets), Octets
  rpc :Scatter, Octets, stream(Octets)
  rpc :Mirror, stream(Octets), stream(Octets)
  rpc :Ended, Octets, Octets

  def initialize
    @ends = Ends.new
  end

  def unary(message, call)
    start(call)
    finish(call)
    Octets.new(message.b.reverse)
  end

  def collect(call)
    start(call)
    messages = call.each_remote_read.to_a
    whole = messages.join
    finish(call)
    Octets.new("#{messages.size} #{whole.bytesize} #{Digest::SHA256.hexdigest(whole)}")
  end

  def scatter(question, call)
    start(call)
    Enumerator.new do |answers|
      question.split.each { |size| answers << Octets.new("s" * size.to_i) }
      finish(call)
    end
  end

  def mirror(messages, call)
    start(call)
    asked = call.metadata
    Enumerator.new do |answers|
      answers << Octets.new(asked["x-greet"]) if asked["x-greet"]
      messages.each { |message| answers << Octets.new(message) }
      finish(call)
    ensure
      @ends.note(asked["x-call"])
    end
  end

  def ended(name, _call) = Octets.new(@ends.wait(name))

  private

  def start(call)
    asked = call.metadata
    initial = asked.key?("x-compress") ? GZIP.dup : {}
    initial["x-echo"] = asked["x-echo"] if asked.key?("x-echo")
    call.merge_metadata_to_send(initial)
    call.send_initial_metadata
    call.output_metadata["x-echo-bin"] = asked["x-echo-bin"] if asked.key?("x-echo-bin")
  end

  def finish(call)
    asked = call.metadata
    return unless asked.key?("x-status")
    raise GRPC::BadStatus.new(asked["x-status"].to_i, asked["x-message-bin"], call.output_metadata)
  end
end

def serve
  server = GRPC::RpcServer.new(pool_size: 16)
  port = server.add_http2_port("127.0.0.1:0", :this_port_is_insecure)
  server.handle(MirrorService.new)  # of a class it would make one for each method
  puts port
  $stdout.flush
  server.run
end

def path(method) = "/#{SERVICE}/#{method}"

def shown(code, message, answers, initial, trailing)
  {
    code: code, message: message,
    answers: answers.map { |octets| [octets.bytesize, Digest::SHA256.hexdigest(octets)[0, 12]] },
    initial: Array((initial || {})["x-echo"]),
    trailing: Array((trailing || {})["x-echo-bin"]).map { |octets| octets.unpack1("H*") }
  }
end

# Runs an operation, and says what came of it.
def watch(operation)
  answers = []
  yield operation, answers
  operation.wait
  shown(0, "", answers, operation.metadata, operation.trailing_metadata)
rescue GRPC::BadStatus => error
  shown(error.code, error.details, answers, operation.metadata, error.metadata)
end

def ask(stub, message, metadata = {}, to = path("Unary"))
  operation = stub.request_response(to, message, CODEC, CODEC, return_op: true, metadata: metadata)
  watch(operation) { |op, answers| answers << op.execute }
end

# A duplex call: `messages` is a queue that ends with nil, or a list.
def open(stub, method, messages, metadata = {}, deadline = nil)
  source = messages.is_a?(Array) ? messages : Enumerator.new { |y| while (m = messages.pop) do y << m end }
  stub.bidi_streamer(path(method), source, CODEC, CODEC, return_op: true, metadata: metadata, deadline: deadline)
end

def stream(stub, method, messages, metadata = {})
  watch(open(stub, method, messages, metadata)) { |op, answers| op.execute.each { |a| answers << a } }
end

def ping_pong(stub)
  queue = Queue.new
  sizes = SIZES.dup
  queue << "p" * sizes.shift
  watch(open(stub, "Mirror", queue)) do |op, answers|
    op.execute.each do |answer|
      answers << answer
      size = sizes.shift
      queue << (size && "p" * size)
    end
  end
end

def server_first(stub)
  queue = Queue.new
  watch(open(stub, "Mirror", queue, { "x-greet" => "welcome" })) do |op, answers|
    op.execute.each do |answer|
      answers << answer
      queue << nil
    end
  end
end

def deadline(stub)
  queue = Queue.new
  seen = watch(open(stub, "Mirror", queue, {}, Time.now + DEADLINE_SECONDS)) { |op, _| op.execute.each {} }
  queue << nil
  { code: seen[:code] }
end

def cancel(stub)
  name = SecureRandom.uuid
  queue = Queue.new << "first"
  first = nil
  seen = watch(open(stub, "Mirror", queue, { "x-call" => name })) do |op, _|
    op.execute.each do |answer|
      first = answer
      op.cancel
    end
  end
  queue << nil
  server = stub.request_response(path("Ended"), name, CODEC, CODEC)
  { first: first, code: seen[:code], server: server }
end

def status(code, message) = { "x-status" => code.to_s, "x-message-bin" => message }

ECHO = { "x-echo" => ["one", "two, with a comma", "one"] }.freeze
ECHO_BIN = { "x-echo-bin" => BINARY }.freeze

CASES = {
  empty_unary: ->(s) { ask(s, "") },
  large_unary: ->(s) { ask(s, LARGE) },
  compressed: ->(s) { ask(s, LARGE, { "x-compress" => "1", **GZIP }) },
  client_streaming: ->(s) { stream(s, "Collect", SIZES.map { |size| "c" * size }) },
  server_streaming: ->(s) { stream(s, "Scatter", [SIZES.join(" ")]) },
  ping_pong: method(:ping_pong),
  empty_stream: ->(s) { stream(s, "Mirror", []) },
  server_first: method(:server_first),
  metadata: ->(s) { ask(s, "x", { **ECHO, **ECHO_BIN }) },
  large_metadata: ->(s) { ask(s, "x", { "x-echo" => "v" * 7_000 }) },
  status: ->(s) { ask(s, "x", status(9, "test status message")) },
  special_message: ->(s) { ask(s, "x", status(9, SPECIAL)) },
  status_behind_answers: ->(s) { stream(s, "Scatter", ["3 1"], { **status(10, "behind answers"), **ECHO_BIN }) },
  unimplemented: lambda { |s|
    { method: ask(s, "", {}, path("Nothing")), service: ask(s, "", {}, "/interop.v1.Nothing/Unary") }
  },
  deadline: method(:deadline),
  cancel: method(:cancel)
}.freeze

def play(port)
  stub = GRPC::ClientStub.new("127.0.0.1:#{port}", :this_channel_is_insecure)
  CASES.each do |name, run|
    seen = begin
      run.call(stub)
    rescue StandardError => error
      { error: "#{error.class}: #{error.message}" }
    end
    puts JSON.generate({ name => seen })
  end
end

ARGV[0] == "call" ? play(ARGV[1]) : serve
