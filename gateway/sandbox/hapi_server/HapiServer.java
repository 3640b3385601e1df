import ca.uhn.fhir.batch2.api.IJobMaintenanceService;
import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.batch2.jobs.export.BulkDataExportProvider;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.binary.api.IBinaryStorageSvc;
import ca.uhn.fhir.jpa.binstore.MemoryBinaryStorageSvcImpl;
import ca.uhn.fhir.jpa.config.HapiJpaConfig;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.provider.ValueSetOperationProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.match.config.SubscriptionProcessorConfig;
import ca.uhn.fhir.jpa.subscription.match.deliver.email.IEmailSender;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import jakarta.persistence.EntityManagerFactory;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import javax.sql.DataSource;
import org.apache.commons.dbcp2.BasicDataSource;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.util.thread.QueuedThreadPool;
import org.hl7.fhir.dstu2.model.Subscription.SubscriptionChannelType;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.context.ApplicationContext;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;

/**
 * A HAPI FHIR R4 JPA server for one developer or one test run: on loopback, data in memory (H2), no sign-in.
 *
 * <p>It prints {@code READY http://127.0.0.1:PORT/fhir} and then serves until its standard input ends, so that it never outlives the program
 * that started it. Every setting is a -D property, named where it is read; unset, each has the value that HAPI ships with.
 */
public class HapiServer {

	public static void main(String[] args) throws Exception {
		if (Boolean.getBoolean("end.with.stdin")) endWithStdin();
		AnnotationConfigApplicationContext parts = new AnnotationConfigApplicationContext(Parts.class);
		parts.registerShutdownHook();
		if (Boolean.getBoolean("bulk")) startJobMaintenance(parts);
		ServerConnector connector = serve(fhirServlet(parts));
		System.out.printf("READY http://127.0.0.1:%d/fhir%n", connector.getLocalPort());
		System.out.flush();
		connector.getServer().join();
	}

	/** The other end of the pipe is our parent: when it is gone, however it went, the read returns -1. */
	private static void endWithStdin() {
		Thread watch = new Thread(() -> {
			try {
				while (System.in.read() >= 0) { }
			} catch (java.io.IOException gone) {
				// the same as an end
			}
			Runtime.getRuntime().halt(0);   // nothing to keep: the data is in memory
		}, "parent-watch");
		watch.setDaemon(true);
		watch.start();
	}

	/** HAPI moves a $export on once a minute; a sandbox wants it each second. */
	private static void startJobMaintenance(ApplicationContext parts) {
		IJobMaintenanceService jobs = parts.getBean(IJobMaintenanceService.class);
		Executors.newSingleThreadScheduledExecutor(work -> {
			Thread thread = new Thread(work, "job-maintenance");
			thread.setDaemon(true);
			return thread;
		}).scheduleWithFixedDelay(jobs::runMaintenancePass, 1, 1, TimeUnit.SECONDS);
	}

	private static RestfulServer fhirServlet(ApplicationContext parts) {
		RestfulServer servlet = new RestfulServer(parts.getBean(FhirContext.class));
		servlet.registerProviders(parts.getBean(ResourceProviderFactory.class).createProviders());
		servlet.registerProvider(parts.getBean(IJpaSystemProvider.class));
		servlet.registerProvider(parts.getBean(ValueSetOperationProvider.class));
		if (Boolean.getBoolean("bulk")) servlet.registerProvider(parts.getBean(BulkDataExportProvider.class));
		servlet.setServerConformanceProvider(capabilities(servlet, parts));
		servlet.setPagingProvider(paging(parts));
		servlet.setDefaultResponseEncoding(EncodingEnum.JSON);
		return servlet;
	}

	private static JpaCapabilityStatementProvider capabilities(RestfulServer servlet, ApplicationContext parts) {
		IFhirSystemDao<?, ?> system = parts.getBean(IFhirSystemDao.class);
		JpaCapabilityStatementProvider provider = new JpaCapabilityStatementProvider(servlet, system,
			parts.getBean(JpaStorageSettings.class), parts.getBean(ISearchParamRegistry.class), parts.getBean(IValidationSupport.class));
		provider.setImplementationDescription("HAPI FHIR R4 sandbox");
		return provider;
	}

	private static DatabaseBackedPagingProvider paging(ApplicationContext parts) {
		DatabaseBackedPagingProvider paging = parts.getBean(DatabaseBackedPagingProvider.class);
		paging.setDefaultPageSize(Integer.getInteger("page.default", 20));
		paging.setMaximumPageSize(Integer.getInteger("page.max", 1000));
		return paging;
	}

	private static ServerConnector serve(RestfulServer servlet) throws Exception {
		Server jetty = new Server(new QueuedThreadPool(Integer.getInteger("threads", 32)));
		ServerConnector connector = new ServerConnector(jetty, 1, 1);
		connector.setHost("127.0.0.1");                              // there is no sign-in: never on another interface
		connector.setPort(Integer.getInteger("port", 0));            // 0: a free one
		jetty.addConnector(connector);
		ServletContextHandler root = new ServletContextHandler("/");
		root.addServlet(new ServletHolder(servlet), "/fhir/*");
		jetty.setHandler(root);
		jetty.setStopAtShutdown(true);
		jetty.start();
		return connector;
	}

	/** The Spring beans that HAPI's own configuration expects its host to bring. */
	@Configuration
	@Import({JpaR4Config.class, HapiJpaConfig.class, JpaBatch2Config.class, Batch2JobsConfig.class, ThreadPoolFactoryConfig.class,
		SubscriptionChannelConfig.class, SubscriptionSubmitterConfig.class, SubscriptionProcessorConfig.class})
	public static class Parts {

		@Bean
		public JpaStorageSettings storageSettings() {
			JpaStorageSettings settings = new JpaStorageSettings();
			long reuse = Long.getLong("search.reuse.ms", 60000);     // 0: every search is made anew
			settings.setReuseCachedSearchResultsForMillis(reuse > 0 ? reuse : null);
			settings.setExpungeEnabled(true);                        // POST /fhir/$expunge empties it between tests
			settings.setAllowDatabaseValidationOverride(false);
			if (Boolean.getBoolean("lenient")) {                     // dangling references and numeric client ids go in
				settings.setEnforceReferentialIntegrityOnWrite(false);
				settings.setResourceClientIdStrategy(JpaStorageSettings.ClientIdStrategyEnum.ANY);
			}
			return settings;
		}

		@Bean
		public DataSource dataSource() {
			BasicDataSource source = new BasicDataSource();
			source.setDriver(new org.h2.Driver());
			source.setUrl(System.getProperty("db.url", "jdbc:h2:mem:hapi;DB_CLOSE_DELAY=-1"));
			source.setUsername("sa");
			source.setPassword("");
			source.setMaxTotal(Integer.getInteger("db.pool", 20));
			return source;
		}

		@Bean
		public LocalContainerEntityManagerFactoryBean entityManagerFactory(ConfigurableListableBeanFactory beans, FhirContext fhir,
				JpaStorageSettings settings, DataSource source) {
			LocalContainerEntityManagerFactoryBean factory = HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, fhir, settings);
			factory.setPersistenceUnitName("HAPI_PU");
			factory.setDataSource(source);
			factory.setJpaPropertyMap(Map.of(
				"hibernate.dialect", HapiFhirH2Dialect.class.getName(),
				"hibernate.hbm2ddl.auto", "update",
				"hibernate.jdbc.batch_size", "20",
				"hibernate.search.enabled", "false"));               // no Lucene: _content and _text are refused
			return factory;
		}

		@Bean
		public JpaTransactionManager transactionManager(EntityManagerFactory factory) {
			return new JpaTransactionManager(factory);
		}

		@Bean
		public SubscriptionSettings subscriptionSettings() {
			SubscriptionSettings settings = new SubscriptionSettings();
			if (Boolean.getBoolean("resthook")) settings.addSupportedSubscriptionType(SubscriptionChannelType.RESTHOOK);
			return settings;
		}

		@Bean
		public PartitionSettings partitionSettings() {
			return new PartitionSettings();
		}

		@Bean
		public IBinaryStorageSvc binaryStorage() {
			return new MemoryBinaryStorageSvcImpl();
		}

		@Bean
		public IEmailSender emailSender() {
			return mail -> { };
		}
	}
}
