// Embeds texts with grpc-go: one call, a stream, and an error that is handled.
//
//	go run . [ADDRESS [INSTANCE]]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	mux "example/pb/multiplexer/v1"
	tei "example/pb/tei/v1"
)

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.57.2 generate

const (
	deadline = 10 * time.Second // travels to the instance
	text     = "Hello world"
)

var texts = []string{"The first text", "the second", "and a third one"}

func main() {
	log.SetFlags(0)
	address, instance := "localhost:9001", "minilm"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if len(os.Args) > 2 {
		instance = os.Args[2]
	}
	if err := run(address, instance); err != nil {
		log.Fatal(err)
	}
}

// run makes all calls on one channel.
func run(address, instance string) error {
	channel, err := connect(address)
	if err != nil {
		return err
	}
	defer channel.Close()
	client := mux.NewTeiMultiplexerClient(channel)
	if err := embed(client, instance); err != nil {
		return err
	}
	if err := embedStream(client, instance); err != nil {
		return err
	}
	return embedNowhere(client)
}

// connect makes a channel whose dead connection is noticed within forty seconds, not hours.
func connect(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true,
		}),
		// EmbedAll answers pass grpc-go's 4 MiB.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
}

// embed embeds one text by one call.
func embed(client mux.TeiMultiplexerClient, instance string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	answer, err := client.Embed(ctx, request(text, instance))
	if err != nil {
		return err
	}
	show(text, answer)
	return nil
}

// embedStream embeds several texts by one call; the answers come in the order of the texts.
func embedStream(client mux.TeiMultiplexerClient, instance string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	stream, err := client.EmbedStream(ctx)
	if err != nil {
		return err
	}
	go send(stream, instance) // while this goroutine reads
	for next := 0; ; next++ {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		show(texts[next], answer)
	}
}

// send puts all texts on a stream. Why it failed, if it did, is what Recv returns.
func send(stream mux.TeiMultiplexer_EmbedStreamClient, instance string) {
	for _, text := range texts {
		if stream.Send(request(text, instance)) != nil {
			return
		}
	}
	stream.CloseSend()
}

// embedNowhere calls an instance that there is not: the code says what to do, the message what is
// wrong.
func embedNowhere(client mux.TeiMultiplexerClient) error {
	err := embed(client, "no-such-instance")
	if status.Code(err) != codes.NotFound {
		return err
	}
	fmt.Println("NOT_FOUND:", status.Convert(err).Message())
	return nil
}

// request asks an instance for the vector of a text.
func request(text, instance string) *mux.EmbedRequest {
	return &mux.EmbedRequest{
		Target:  &mux.Target{Routing: &mux.Target_InstanceName{InstanceName: instance}},
		Request: &tei.EmbedRequest{Inputs: text},
	}
}

// show prints how long the vector of a text is, and how it begins.
func show(text string, answer *tei.EmbedResponse) {
	numbers := answer.GetEmbeddings()
	fmt.Printf("%s -> %d numbers, the first %.4f\n", text, len(numbers), numbers[0])
}
