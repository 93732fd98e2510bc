// Socket.IO on Node: the same work as our hubs. Prints its port.
import { createServer } from "node:http";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http);

io.on("connection", (socket) => {
  socket.on("echo", (text, acknowledge) => acknowledge(text));
  socket.on("bcast", (text) => io.emit("bcast", text));
  socket.on("join", async (room, acknowledge) => {
    await socket.join(room);
    acknowledge();
  });
  socket.on("group", (room, text) => io.to(room).emit("group", text));
});

http.listen(0, "127.0.0.1", 4096, () => console.log(JSON.stringify({ port: http.address().port })));
