// Official SignalR clients that keep talking. One process has them all.
//
//     node clients.mjs URL COUNT SEED LARGE_EVERY LARGE_SIZE LONGEST_DELAY
//
// Writes one JSON array per line about what they see: [client, what, ...]; ledger.py judges it.
// Its standard input says "go" when they are to talk, and "stop" when they are to finish what is
// under way and leave. When it ends, so do they.

import * as readline from "node:readline";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const [url, ...figures] = process.argv.slice(2);
const [count, seed, largeEvery, largeSize, longestDelay] = figures.map(Number);
const WINDOW = 3;
const ITEMS = 5;
const RECONNECT = [0, 200, 500, 1000, 2000, 5000, 10000];
const LARGE = "x".repeat(largeSize);

let stopping = false;
let tellGo;
let tellStop;
const going = new Promise((resolve) => (tellGo = resolve));
const stopped = new Promise((resolve) => (tellStop = resolve));

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const report = (...event) => process.stdout.write(JSON.stringify(event) + "\n");
const now = () => performance.now() / 1000;

/** A generator of numbers from 0 to 1 that begins the same for the same seed (mulberry32). */
function chance(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

class TalkingClient {
  constructor(index) {
    this.index = index;
    this.random = chance(seed * 1000 + index);
    this.connection = new signalR.HubConnectionBuilder()
      .withUrl(url)
      .withHubProtocol(this.watched(index % 2 ? new MessagePackHubProtocol() : new signalR.JsonHubProtocol()))
      .withAutomaticReconnect(RECONNECT)
      .configureLogging(signalR.LogLevel.Critical)
      .build();
    this.connection.on("noted", () => this.freed());
    this.connection.on("restarting", (server) => {
      report(index, "announced", server);
    });
    this.connection.onreconnecting(() => this.lost());
    this.connection.onreconnected(() => this.begin());
    this.connection.onclose(() => this.closing || this.lost());
  }

  /** The protocol, telling of each answer in the order in which they come off the wire. */
  watched(protocol) {
    const parse = protocol.parseMessages.bind(protocol);
    protocol.parseMessages = (input, logger) => {
      const messages = parse(input, logger);
      for (const message of messages) {
        const answer =
          message.type === signalR.MessageType.Completion ? message.result
          : message.target === "noted" ? message.arguments[0]
          : undefined;
        if (Array.isArray(answer)) this.enter(answer);
      }
      return messages;
    };
    return protocol;
  }


  enter(answer) {
    report(this.index, "answered", ...answer.slice(0, 4), now());
  }

  begin() {
    report(this.index, "connected", now());
    this.free = WINDOW;
    this.waiting = [];
    const life = { lost: false };
    this.life = life;
    this.talk = Promise.all([this.calls(life), this.streams(life), this.uploads(life)]);
  }

  lost() {
    report(this.index, "disconnected", now());
    this.life.lost = true;
    this.waiting.forEach((wake) => wake());
  }

  /** Resolves when the stop has come, and the last answer. */
  async finished() {
    await stopped;
    await this.talk;
    while (this.life.lost && this.connection.state === "Reconnecting") {
      await sleep(0.1);
      await this.talk;
    }
    this.closing = true;
    await this.connection.stop();
  }

  async place(life) {
    while (this.free === 0 && !life.lost) {
      await new Promise((resolve) => this.waiting.push(resolve));
    }
    this.free -= 1;
  }

  freed() {
    this.free += 1;
    this.waiting.shift()?.();
  }

  delay() {
    return this.random() * longestDelay;
  }

  sent(lane, number, delay) {
    report(this.index, "sent", lane, number, delay, now());
  }

  /** An error of the hub; the loss of the connection is told by onreconnecting. */
  failed(life, lane, number, error) {
    if (!life.lost && this.connection.state === "Connected") {
      report(this.index, "failed", lane, number, String(error));
    }
  }

  async calls(life) {
    for (let number = 1; ; number += 1) {
      await this.place(life);
      if (stopping || life.lost) {
        this.freed();
        break;
      }
      const text = this.random() * largeEvery < 1 && largeEvery ? LARGE : "hello";
      const delay = this.delay();
      this.sent("call", number, delay);
      if (this.random() < 0.7) {
        this.say(life, number, delay, text);
      } else {
        await this.connection.send("Note", number, delay, text).catch(() => {});
      }
    }
    for (let place = 0; place < WINDOW && !life.lost; place += 1) {
      await this.place(life);
    }
  }

  async say(life, number, delay, text) {
    try {
      const answer = await this.connection.invoke("Say", number, delay, text);
      if (answer[1] !== number) {
        report(this.index, "misplaced", `call ${number}: got the answer to ${answer[1]}`);
      }
    } catch (error) {
      this.failed(life, "call", number, error);
    }
    this.freed();
  }

  async streams(life) {
    for (let number = 1; ; number += 1) {
      await this.rest();
      if (stopping || life.lost) return;
      const delay = this.delay();
      this.sent("stream", number, delay);
      try {
        const items = await this.stream("Count", number, delay, ITEMS);
        if (life.lost) return;
        // Not when that item comes: the stream may still end with an error.
        const answer = items.pop();
        if (items.length === ITEMS && items.every((item, index) => item === index)) {
          this.enter(answer);
        } else {
          report(this.index, "misplaced", `stream ${number}: its items were ${items}, ${answer}`);
        }
      } catch (error) {
        this.failed(life, "stream", number, error);
      }
    }
  }

  stream(...call) {
    return new Promise((resolve, reject) => {
      const items = [];
      this.connection.stream(...call).subscribe({
        next: (item) => items.push(item),
        complete: () => resolve(items),
        error: reject,
      });
    });
  }

  async uploads(life) {
    for (let number = 1; ; number += 1) {
      await this.rest();
      if (stopping || life.lost) return;
      const delay = this.delay();
      this.sent("upload", number, delay);
      const items = new signalR.Subject();
      const answer = this.connection.invoke("Collect", number, items);
      const upload = this.upload(items, delay);
      try {
        const [, , , , came] = await answer;
        if (came !== ITEMS) {
          report(this.index, "misplaced", `upload ${number}: ${came} items of ${ITEMS} came`);
        }
      } catch (error) {
        this.failed(life, "upload", number, error);
      }
      await upload;
    }
  }

  async upload(items, delay) {
    for (let item = 0; item < ITEMS; item += 1) {
      await sleep(delay / ITEMS);
      items.next(item);
    }
    items.complete();
  }

  /** Between two streams, or two uploads; cut short by the stop. */
  rest() {
    return Promise.race([sleep(0.2 + this.random() * 1.3), stopped]);
  }
}

// The client does not catch what the items of an upload meet when the connection is lost.
process.on("unhandledRejection", (error) => {
  if (!String(error).includes("Cannot send data if the connection is not in the 'Connected' State")) {
    throw error;
  }
});

const commands = readline.createInterface({ input: process.stdin });
commands.on("line", (line) => {
  if (line === "go") {
    tellGo();
  } else {
    stopping = true;
    tellStop();
  }
});
commands.on("close", () => process.exit());

const clients = Array.from({ length: count }, (_, index) => new TalkingClient(index));
await Promise.all(clients.map((client) => client.connection.start()));
report(-1, "ready");
await going;
clients.forEach((client) => client.begin());
await Promise.all(clients.map((client) => client.finished()));
process.exit();
