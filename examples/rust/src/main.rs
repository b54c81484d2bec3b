//! Embeds texts with tonic: one call, a stream, and an error that is handled.
//!
//!     cargo run -- [ADDRESS [INSTANCE]]

mod protos {
    tonic::include_proto!("protos");
}

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use protos::tei::v1 as tei;
use protos::tei_multiplexer::v1::target::Routing;
use protos::tei_multiplexer::v1::tei_multiplexer_client::TeiMultiplexerClient;
use protos::tei_multiplexer::v1::{EmbedRequest, Target};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

const DEADLINE: Duration = Duration::from_secs(10);
const TEXT: &str = "Hello world";
const TEXTS: [&str; 3] = ["The first text", "the second", "and a third one"];

type Client = TeiMultiplexerClient<Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all calls on one channel.
async fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("localhost:9001".into());
    let instance = arguments.next().unwrap_or("minilm".into());
    let mut client = connect(&address)?;
    embed(&mut client, &instance).await?;
    embed_stream(&mut client, instance).await?;
    embed_nowhere(&mut client).await?;
    Ok(())
}

/// Makes a channel whose dead connection is noticed within forty seconds, not hours.
fn connect(address: &str) -> Result<Client, Box<dyn Error>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_lazy();
    // EmbedAll answers pass tonic's 4 MiB.
    Ok(TeiMultiplexerClient::new(channel).max_decoding_message_size(64 << 20))
}

/// Embeds one text by one call.
async fn embed(client: &mut Client, instance: &str) -> Result<(), Status> {
    let question = with_deadline(request(TEXT, instance));
    let answer = client.embed(question).await?;
    show(TEXT, &answer.into_inner());
    Ok(())
}

/// Embeds several texts by one call; the answers come in the order of the texts.
async fn embed_stream(client: &mut Client, instance: String) -> Result<(), Status> {
    let requests = TEXTS.map(|text| request(text, &instance));
    let questions = with_deadline(tokio_stream::iter(requests));
    let mut answers = client.embed_stream(questions).await?.into_inner();
    let mut texts = TEXTS.into_iter();
    while let (Some(text), Some(answer)) = (texts.next(), answers.message().await?) {
        show(text, &answer);
    }
    Ok(())
}

/// Calls an instance that there is not: the code says what to do, the message what is wrong.
async fn embed_nowhere(client: &mut Client) -> Result<(), Status> {
    match embed(client, "no-such-instance").await {
        Err(status) if status.code() == Code::NotFound => {
            println!("NOT_FOUND: {}", status.message());
            Ok(())
        }
        other => other,
    }
}

/// Asks an instance for the vector of a text.
fn request(text: &str, instance: &str) -> EmbedRequest {
    EmbedRequest {
        target: Some(Target {
            routing: Some(Routing::InstanceName(instance.into())),
        }),
        request: Some(tei::EmbedRequest {
            inputs: text.into(),
            ..Default::default()
        }),
    }
}

/// Gives a call a deadline, which travels to the instance.
fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Prints how long the vector of a text is, and how it begins.
fn show(text: &str, answer: &tei::EmbedResponse) {
    let numbers = &answer.embeddings;
    println!(
        "{text} -> {} numbers, the first {:.4}",
        numbers.len(),
        numbers[0]
    );
}
