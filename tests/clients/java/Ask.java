// JDK's own HttpClient, as Spring AI and LangChain4j use it, against the second of the addresses given, tiny's: prints a line an answer.
// It offers h2c with the first request of every connection, and a body with it.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.stream.Collectors;

public class Ask {
    static final String BODY = """
        {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": %s}
        """;

    public static void main(String[] arguments) throws Exception {
        URI chat = URI.create(arguments[1] + "/chat/completions");
        // The default version is HTTP/2, which over plain http begins with an upgrade.
        HttpClient client = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
        for (int times = 0; times < 2; times++) { // the second on the same connection
            HttpResponse<String> whole = client.send(request(chat, "false"), BodyHandlers.ofString());
            System.out.println(whole.statusCode() + " " + whole.version() + " " + oneLine(whole.body()));
        }
        HttpResponse<java.util.stream.Stream<String>> events =
            HttpClient.newHttpClient().send(request(chat, "true"), BodyHandlers.ofLines());
        String lines = events.body().filter(line -> !line.isEmpty()).collect(Collectors.joining(" "));
        System.out.println(events.statusCode() + " " + events.version() + " " + lines);
    }

    static HttpRequest request(URI uri, String stream) {
        return HttpRequest.newBuilder(uri)
            .timeout(Duration.ofSeconds(60))
            .header("Content-Type", "application/json")
            .header("Authorization", "Bearer none")
            .POST(HttpRequest.BodyPublishers.ofString(BODY.formatted(stream)))
            .build();
    }

    static String oneLine(String text) {
        return text.replace("\n", " ");
    }
}
